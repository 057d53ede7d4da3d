#define _GNU_SOURCE
#include "nccl_world.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/uio.h>
#include <unistd.h>

enum { MOST_RANKS = 1024, SPINS = 200, NAP_US = 50 };

typedef struct {
  offer shown;  /* of a collective */
  offer posted; /* of a send */
  int full;     /* whether `posted` has not been taken */
} box;

struct shared_world {
  int arrived, meeting;
  pid_t pid[MOST_RANKS];
  box boxes[]; /* [from * size + to] */
};

static size_t bytes_of(const communicator *comm) {
  return sizeof(shared_world) + (size_t)comm->size * (size_t)comm->size * sizeof(box);
}

int join_world(communicator *comm) {
  comm->absent = getenv("REHEARSAL_SOLO") != NULL;
  comm->shared = NULL;
  if (comm->absent) return OK;
  if (comm->size > MOST_RANKS) return SYSTEM_ERROR;
  int file = shm_open(comm->name, O_RDWR | O_CREAT, 0600);
  if (file < 0 || ftruncate(file, (off_t)bytes_of(comm))) return SYSTEM_ERROR;
  void *at = mmap(NULL, bytes_of(comm), PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
  close(file);
  if (at == MAP_FAILED) return SYSTEM_ERROR;
  comm->shared = at;
  comm->shared->pid[comm->rank] = getpid();
  prctl(PR_SET_PTRACER, PR_SET_PTRACER_ANY); /* where Yama is on: lets the other ranks read */
  int result = meet(comm);
  if (comm->rank == 0) shm_unlink(comm->name);
  return result;
}

void leave_world(communicator *comm) {
  if (comm->shared) munmap(comm->shared, bytes_of(comm));
  free(comm);
}

int meet(communicator *comm) {
  shared_world *shared = comm->shared;
  if (!shared) return OK;
  int meeting = __atomic_load_n(&shared->meeting, __ATOMIC_ACQUIRE);
  if (__atomic_add_fetch(&shared->arrived, 1, __ATOMIC_ACQ_REL) == comm->size) {
    __atomic_store_n(&shared->arrived, 0, __ATOMIC_RELAXED);
    __atomic_add_fetch(&shared->meeting, 1, __ATOMIC_RELEASE);
    return OK;
  }
  for (int spins = 0; __atomic_load_n(&shared->meeting, __ATOMIC_ACQUIRE) == meeting; spins++) {
    if (__atomic_load_n(&comm->aborted, __ATOMIC_RELAXED)) return SYSTEM_ERROR;
    be_patient(spins);
  }
  return OK;
}

void be_patient(int turns) {
  if (turns > SPINS) usleep(NAP_US);
}

static box *box_of(communicator *comm, int from, int to) { return &comm->shared->boxes[from * comm->size + to]; }

void show(communicator *comm, int to, offer mine) { box_of(comm, comm->rank, to)->shown = mine; }

offer seen(communicator *comm, int from) { return box_of(comm, from, comm->rank)->shown; }

int post(communicator *comm, int to, offer mine) {
  box *into = box_of(comm, comm->rank, to);
  if (__atomic_load_n(&into->full, __ATOMIC_ACQUIRE)) return 0;
  into->posted = mine;
  __atomic_store_n(&into->full, 1, __ATOMIC_RELEASE);
  return 1;
}

int was_taken(communicator *comm, int to) { return !__atomic_load_n(&box_of(comm, comm->rank, to)->full, __ATOMIC_ACQUIRE); }

int look(communicator *comm, int from, offer *theirs) {
  box *of = box_of(comm, from, comm->rank);
  if (!__atomic_load_n(&of->full, __ATOMIC_ACQUIRE)) return 0;
  *theirs = of->posted;
  return 1;
}

void take(communicator *comm, int from) { __atomic_store_n(&box_of(comm, from, comm->rank)->full, 0, __ATOMIC_RELEASE); }

int read_from(communicator *comm, int rank, void *to, const void *from, size_t bytes) {
  if (!bytes) return OK;
  if (rank == comm->rank || comm->absent) {
    memmove(to, from, bytes);
    return OK;
  }
  for (size_t done = 0; done < bytes;) {
    struct iovec local = {(char *)to + done, bytes - done}, remote = {(char *)from + done, bytes - done};
    ssize_t got = process_vm_readv(comm->shared->pid[rank], &local, 1, &remote, 1, 0);
    if (got <= 0) {
      fprintf(stderr, "rehearsal: rank %d cannot read the memory of rank %d (process_vm_readv: %s)\n", comm->rank, rank, strerror(errno));
      return REMOTE_ERROR;
    }
    done += (size_t)got;
  }
  return OK;
}
