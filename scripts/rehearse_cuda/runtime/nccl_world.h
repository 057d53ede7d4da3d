/* Ranks of a communicator, real processes of this host that meet in shared memory. */
#pragma once
#include <stddef.h>
#include <stdint.h>

typedef struct shared_world shared_world;

typedef struct {
  int size, rank;
  int absent;           /* the other ranks do not exist (solo): each is taken to do what this one does */
  int aborted;          /* by ncclCommAbort, from another thread */
  int splits;           /* communicators made of this one */
  char name[64];
  shared_world *shared; /* NULL where the others are absent */
} communicator;

/* What a rank shows the others: a place in its memory, which they read themselves. */
typedef struct {
  const void *address;
  size_t bytes;
} offer;

enum { OK = 0, SYSTEM_ERROR = 2, REMOTE_ERROR = 6 }; /* of ncclResult_t */

/* Join the ranks that have been given the same name. Returns when all have come. */
int join_world(communicator *comm);
void leave_world(communicator *comm);

/* Return when every rank has called it; SYSTEM_ERROR if the communicator is aborted. */
int meet(communicator *comm);

/* Show `mine` to rank `to`, and look at what `from` shows this rank; both between two meetings. */
void show(communicator *comm, int to, offer mine);
offer seen(communicator *comm, int from);

/* One rank to another, without the others: post() puts an offer into an empty box (else it returns 0), look() and take() are
 * the receiver's, and was_taken() tells the sender that its memory may change. */
int post(communicator *comm, int to, offer mine);
int was_taken(communicator *comm, int to);
int look(communicator *comm, int from, offer *theirs);
void take(communicator *comm, int from);

/* Between two looks at something: the first ones follow at once, later ones after a nap. */
void be_patient(int turns);

/* Copy from the memory of another rank. */
int read_from(communicator *comm, int rank, void *to, const void *from, size_t bytes);
