"""What fbgemm's CPU kernels need to know of tables of which a rank holds no row.

A table that is cut into ranges of rows over more ranks than it has rows leaves the last ranks without one. They are sent
none of its ids and add nothing to its pooled embeddings, so nothing has to be computed there. But fbgemm 1.6 to 1.8 goes
wrong on CPU (embedding_forward_split_cpu.cpp, embedding_backward_split_cpu_template.cpp), in two ways:

- A kernel tells its tables apart by steps of ``hash_size_cumsum``, the cumulated numbers of rows. Where a table makes no
  step, it is taken for one with the next, with the width of the first of the two; at the end of the list the kernel
  reads on behind the array.
- A module without any weight on the host takes itself for one on a GPU, and hands its arguments to the CPU kernel in the
  order that a GPU's has.

Nothing else is read from either: the rows of a table that has some are still the difference of two cumulated numbers, and
where its weights begin is in ``weights_offsets``.
"""

from __future__ import annotations

from itertools import accumulate
from typing import Any

import torch


def keep_empty_shards_apart(kernel: Any) -> None:
    """Let an fbgemm module that computes on the CPU count a table without rows as one row, which no id ever asks for.

    Args:
        kernel: a SplitTableBatchedEmbeddingBagsCodegen; one without empty shards, or on a GPU, stays as it is.
    """
    rows = [spec[0] for spec in kernel.embedding_specs]
    if not kernel.use_cpu or all(rows):
        return
    begins = list(accumulate((max(1, count) for count in rows), initial=0))
    of_features = [begins[table] for table in kernel.feature_table_map]
    kernel.hash_size_cumsum.copy_(torch.tensor([*of_features, begins[-1]]))
    if not any(rows):
        kernel.weights_host = kernel.weights_host.new_zeros(1)  # belongs to no table
