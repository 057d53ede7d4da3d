/* NCCL between processes of this host, at once and in the order of the calls, whatever the stream; each rank reads what it
 * needs from the memory of the others. Where the others do not exist (solo), each is taken to do what this rank does.
 *
 * A collective: show the others where the input is, meet, read, meet again before the input may change. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <unistd.h>

#include "counters.h"
#include "nccl_sums.h"
#include "nccl_world.h"

enum { ID_BYTES = 128, CHUNK = 1 << 20, MOST_QUEUED = 8192, NO_COLOUR = -1 };

typedef struct {
  char text[ID_BYTES];
} unique_id;

/* ---- communicators */

API int ncclGetUniqueId(unique_id *id) {
  uint64_t number = 0;
  if (getrandom(&number, sizeof number, 0) != sizeof number) return SYSTEM_ERROR;
  memset(id, 0, sizeof *id);
  snprintf(id->text, sizeof id->text, "/dlrm-rehearsal-%d-%016llx", (int)getpid(), (unsigned long long)number);
  return OK;
}

static int make(communicator **made, const char *name, int size, int rank) {
  const char *error = getenv("REHEARSAL_NCCL_ERROR"); /* what starting a communicator returns */
  if (error) return atoi(error);
  communicator *comm = calloc(1, sizeof *comm);
  comm->size = size, comm->rank = rank;
  snprintf(comm->name, sizeof comm->name, "%s", name);
  *made = comm;
  return join_world(comm);
}

API int ncclCommInitRankConfig(communicator **made, int size, unique_id id, int rank, void *config) {
  return make(made, id.text, size, rank);
}
API int ncclCommInitRank(communicator **made, int size, unique_id id, int rank) { return make(made, id.text, size, rank); }
API int ncclCommInitRankScalable(communicator **made, int size, int rank, int id_count, unique_id *ids, void *config) {
  return make(made, ids[0].text, size, rank);
}

/* Of the ranks with the same colour, ordered by key and then by rank, a communicator. */
API int ncclCommSplit(communicator *comm, int colour, int key, communicator **made, void *config) {
  char name[64];
  int size = 0, rank = 0, part = ++comm->splits;
  if (comm->absent) return SYSTEM_ERROR; /* who shares a colour, only the absent know */
  if (comm->size == 1) {
    size = comm->size, rank = comm->rank;
  } else {
    int mine[2] = {colour, key};
    for (int to = 0; to < comm->size; to++) show(comm, to, (offer){mine, sizeof mine});
    int result = meet(comm);
    for (int from = 0; !result && from < comm->size; from++) {
      int theirs[2];
      result = read_from(comm, from, theirs, from == comm->rank ? (void *)mine : seen(comm, from).address, sizeof theirs);
      if (theirs[0] != colour) continue;
      size++;
      rank += theirs[1] < key || (theirs[1] == key && from < comm->rank);
    }
    if (!result) result = meet(comm);
    if (result) return result;
  }
  *made = NULL;
  if (colour == NO_COLOUR) return OK;
  snprintf(name, sizeof name, "%.40s-%d-%d", comm->name, part, colour);
  return make(made, name, size, rank);
}

API int ncclCommDestroy(communicator *comm) {
  leave_world(comm);
  return OK;
}
API int ncclCommAbort(communicator *comm) {
  __atomic_store_n(&comm->aborted, 1, __ATOMIC_RELAXED); /* not freed: another thread may be in a collective */
  return OK;
}
API int ncclCommGetAsyncError(communicator *comm, int *error) {
  *error = OK;
  return OK;
}
API int ncclCommCount(communicator *comm, int *size) {
  *size = comm->size;
  return OK;
}
API int ncclCommUserRank(communicator *comm, int *rank) {
  *rank = comm->rank;
  return OK;
}
API int ncclCommCuDevice(communicator *comm, int *device) {
  const char *local_rank = getenv("LOCAL_RANK");
  *device = local_rank ? atoi(local_rank) : 0;
  return OK;
}
API int ncclGetVersion(int *version) {
  *version = 22907;
  return OK;
}
API const char *ncclGetErrorString(int error) { return error ? "an error of the rehearsal" : "no error"; }
API const char *ncclGetLastError(communicator *comm) { return ""; }

/* ---- collectives */

static int show_all(communicator *comm, const void *input, size_t bytes) {
  if (!comm->shared) return OK;
  for (int to = 0; to < comm->size; to++) show(comm, to, (offer){input, bytes});
  return meet(comm);
}

/* Where a rank's input is, in the memory of that rank. */
static const void *input_of(communicator *comm, int rank, const void *mine) {
  return comm->shared && rank != comm->rank ? seen(comm, rank).address : mine;
}

/* Into `to`: the reduction of the elements that begin `skip` bytes into each rank's input, in the order of the ranks. */
static int reduce_over_ranks(communicator *comm, const void *mine, size_t skip, char *to, size_t elements, int type, int op) {
  size_t width = width_of(type), chunk = CHUNK / width;
  char *other = malloc(CHUNK);
  int result = OK;
  for (size_t done = 0; !result && done < elements; done += chunk) {
    size_t now = elements - done < chunk ? elements - done : chunk;
    for (int rank = 0; !result && rank < comm->size; rank++) {
      const char *from = (const char *)input_of(comm, rank, mine) + skip + done * width;
      result = read_from(comm, rank, rank ? other : to + done * width, from, now * width);
      if (rank && !result) reduce_into(to + done * width, other, now, type, op);
    }
    finish_reduction(to + done * width, now, type, op, comm->size);
  }
  free(other);
  return result;
}

/* The result goes where an input may be that others still read, so it is made beside. */
static int reduce_to(communicator *comm, const void *input, size_t skip, void *output, size_t elements, int type, int op) {
  size_t bytes = elements * width_of(type);
  if (comm->absent) { /* sums over ranks that do not exist would only grow */
    memmove(output, (const char *)input + skip, bytes);
    return OK;
  }
  char *made = malloc(bytes ? bytes : 1);
  int result = show_all(comm, input, bytes);
  if (!result && output) result = reduce_over_ranks(comm, input, skip, made, elements, type, op);
  if (!result) result = meet(comm);
  if (!result && output) memcpy(output, made, bytes);
  free(made);
  return result;
}

API int ncclAllReduce(const void *input, void *output, size_t elements, int type, int op, communicator *comm, void *stream) {
  count(ALL_REDUCE, elements * width_of(type));
  return reduce_to(comm, input, 0, output, elements, type, op);
}

API int ncclReduce(const void *input, void *output, size_t elements, int type, int op, int root, communicator *comm, void *stream) {
  count(REDUCE, elements * width_of(type));
  return reduce_to(comm, input, 0, comm->rank == root || comm->absent ? output : NULL, elements, type, op);
}

API int ncclReduceScatter(const void *input, void *output, size_t elements, int type, int op, communicator *comm, void *stream) {
  size_t bytes = elements * width_of(type);
  count(REDUCE_SCATTER, bytes * (size_t)comm->size);
  return reduce_to(comm, input, (size_t)comm->rank * bytes, output, elements, type, op);
}

API int ncclAllGather(const void *input, void *output, size_t elements, int type, communicator *comm, void *stream) {
  size_t bytes = elements * width_of(type);
  count(ALL_GATHER, bytes * (size_t)comm->size);
  int result = show_all(comm, input, bytes);
  for (int rank = 0; !result && rank < comm->size; rank++)
    result = read_from(comm, rank, (char *)output + (size_t)rank * bytes, input_of(comm, rank, input), bytes);
  return result ? result : meet(comm);
}

API int ncclBroadcast(const void *input, void *output, size_t elements, int type, int root, communicator *comm, void *stream) {
  size_t bytes = elements * width_of(type);
  count(BROADCAST, bytes);
  int result = show_all(comm, input, bytes);
  if (!result && (!comm->absent || root == comm->rank)) result = read_from(comm, root, output, input_of(comm, root, input), bytes);
  return result ? result : meet(comm);
}
API int ncclBcast(void *buffer, size_t elements, int type, int root, communicator *comm, void *stream) {
  return ncclBroadcast(buffer, buffer, elements, type, root, comm, stream);
}

API int ncclAlltoAll(const void *input, void *output, size_t elements, int type, communicator *comm, void *stream) {
  size_t bytes = elements * width_of(type);
  count(ALL_TO_ALL, bytes * (size_t)comm->size);
  int result = show_all(comm, input, bytes * (size_t)comm->size);
  for (int rank = 0; !result && rank < comm->size; rank++) {
    /* of a rank that does not exist comes what goes to this one itself, as all are taken to be alike */
    const char *from = (const char *)input_of(comm, rank, input) + (size_t)comm->rank * bytes;
    result = read_from(comm, rank, (char *)output + (size_t)rank * bytes, from, bytes);
  }
  return result ? result : meet(comm);
}

/* ---- sends and receives: queued, and done together where the outermost group ends */

enum progress { WAITING, POSTED, DONE };

typedef struct {
  void *address;
  size_t bytes;
  int peer;
  communicator *comm;
  enum progress progress;
} transfer;

static __thread transfer sends[MOST_QUEUED], receives[MOST_QUEUED];
static __thread int send_count, receive_count, group_depth;

/* Whether an earlier transfer of the queue with the same peer is not done: they go in order. */
static int is_behind(const transfer *queue, int place) {
  for (int i = 0; i < place; i++)
    if (queue[i].progress != DONE && queue[i].peer == queue[place].peer && queue[i].comm == queue[place].comm) return 1;
  return 0;
}

static void advance_send(int place) {
  transfer *sent = &sends[place];
  if (sent->progress == WAITING && !is_behind(sends, place) && post(sent->comm, sent->peer, (offer){sent->address, sent->bytes}))
    sent->progress = POSTED;
  else if (sent->progress == POSTED && was_taken(sent->comm, sent->peer))
    sent->progress = DONE;
}

static int advance_receive(int place) {
  transfer *wanted = &receives[place];
  offer theirs;
  if (wanted->progress == DONE || is_behind(receives, place) || !look(wanted->comm, wanted->peer, &theirs)) return OK;
  if (theirs.bytes != wanted->bytes) {
    fprintf(stderr, "rehearsal: rank %d wants %zu bytes of rank %d, which sends %zu\n", wanted->comm->rank, wanted->bytes, wanted->peer,
            theirs.bytes);
    return REMOTE_ERROR;
  }
  int result = read_from(wanted->comm, wanted->peer, wanted->address, theirs.address, theirs.bytes);
  take(wanted->comm, wanted->peer);
  wanted->progress = DONE;
  return result;
}

static size_t bytes_sent(void) {
  size_t bytes = 0;
  for (int i = 0; i < send_count; i++) bytes += sends[i].bytes;
  return bytes;
}

static int left_of(const transfer *queue, int queued) {
  int left = 0;
  for (int i = 0; i < queued; i++) left += queue[i].progress != DONE;
  return left;
}

static int exchange(void) {
  int result = OK;
  for (int turns = 0; !result && left_of(sends, send_count) + left_of(receives, receive_count); turns++) {
    for (int i = 0; i < send_count; i++) advance_send(i);
    for (int i = 0; !result && i < receive_count; i++) result = advance_receive(i);
    if (send_count + receive_count && (send_count ? sends : receives)[0].comm->aborted) return SYSTEM_ERROR;
    be_patient(turns);
  }
  return result;
}

/* Alone: what comes from any rank is what goes to this one itself, as all are taken to be alike. */
static int exchange_with_absent(void) {
  for (int i = 0; i < receive_count; i++)
    for (int j = 0; j < send_count; j++)
      if (sends[j].peer == sends[j].comm->rank && sends[j].bytes == receives[i].bytes) {
        memmove(receives[i].address, sends[j].address, sends[j].bytes);
        break;
      }
  return OK;
}

API int ncclGroupStart(void) {
  group_depth++;
  return OK;
}
API int ncclGroupEnd(void) {
  if (--group_depth) return OK;
  const communicator *comm = send_count ? sends[0].comm : receive_count ? receives[0].comm : NULL;
  if (comm) count(EXCHANGE, bytes_sent());
  int result = !comm ? OK : comm->absent ? exchange_with_absent() : exchange();
  send_count = receive_count = 0;
  return result;
}
API int ncclSend(const void *input, size_t elements, int type, int peer, communicator *comm, void *stream) {
  if (send_count == MOST_QUEUED) return SYSTEM_ERROR;
  sends[send_count++] = (transfer){(void *)input, elements * width_of(type), peer, comm, WAITING};
  return group_depth ? OK : (group_depth++, ncclGroupEnd());
}
API int ncclRecv(void *output, size_t elements, int type, int peer, communicator *comm, void *stream) {
  if (receive_count == MOST_QUEUED) return SYSTEM_ERROR;
  receives[receive_count++] = (transfer){output, elements * width_of(type), peer, comm, WAITING};
  return group_depth ? OK : (group_depth++, ncclGroupEnd());
}
