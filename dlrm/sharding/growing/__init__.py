"""Growing tables: ids that are unbounded or unknown, in tables of fixed size.

An *id map* (:mod:`.id_map`) says which row each id of a feature has. It is asked before torchrec sees a batch
(:mod:`.tables`), so that torchrec, the planner, the kernels and checkpoints know ordinary tables, and every sharding type
works. A row that changes hands starts anew, weights and optimizer state, when the batch in which it does is about to be
computed (:mod:`.fresh_rows`).

An id belongs to a *bucket*, by its hash: of a fixed number of buckets, whatever the number of ranks. Each rank has a range
of them, and ids travel to it and rows back (:mod:`.exchange`). What becomes of a bucket in a step (:mod:`.buckets`) follows
from what it was and from how often each of its ids is in the global batch, and from nothing else: not from ranks, not from
the order of samples.

torchrec has managed collision modules for this. They are not used, because with torchrec 1.8 and fbgemm 1.8:

- ``HashZchManagedCollisionModule`` needs fbgemm's ``zero_collision_hash`` to insert ids. On the CPU that kernel looks ids
  up and inserts none (``Expected readonly to be true``). On CUDA threads race for slots by compare-and-swap, so that which
  id gets which row, and which is evicted, may differ from run to run.
- It evicts by the hour of the clock (``time.time() / 3600``), so that a resumed run evicts otherwise than one that was
  not interrupted. Random admission draws from torch's global generator.
- Where no slot is left it returns the slot that the hash says, which belongs to another id.
- ``MCHManagedCollisionModule`` evicts among the rows of a rank's shard, every so many batches, by a history that no
  checkpoint holds. So what is evicted depends on the number of ranks, and on where a run was interrupted.
- Both take row-wise sharding alone. On the CPU the sharder of pooled tables offers none
  (https://github.com/meta-pytorch/torchrec/issues/2958), and the number of rows must be a multiple of the ranks
  (https://github.com/meta-pytorch/torchrec/issues/1591).
- An evicted row is drawn anew by the table's ``init_fn``, from the global generator.

What is kept is their idea of buckets that do not depend on the number of ranks, and the layout: a bucket is a range of rows
that is searched from a place its ids' hashes say.
"""
