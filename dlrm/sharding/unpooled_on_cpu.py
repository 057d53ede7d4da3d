"""Data-parallel tables whose rows are not summed, on CPU.

torchrec looks them up by fbgemm's DenseTableBatchedEmbeddingBagsCodegen with PoolingMode.NONE. fbgemm 1.8's CPU kernel does
not look at the mode and sums the rows of a bag all the same (split_embedding_codegen_lookup_dense_function). So torch looks
the rows up here, from the same weights. tests/unit/contracts/test_tables.py says when that is no longer needed.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from fbgemm_gpu.split_table_batched_embeddings_ops_common import PoolingMode
from fbgemm_gpu.split_table_batched_embeddings_ops_training import DenseTableBatchedEmbeddingBagsCodegen
from torch import nn

from dlrm.distributed.internals import all_lookups


def look_rows_up_by_torch(sharded: nn.Module) -> None:
    """Have torch look up rows of data-parallel tables that are not summed, where fbgemm would sum them.

    Args:
        sharded: the sharded model, before its first step.
    """
    for lookup in all_lookups(sharded):
        for module in lookup.modules():
            kernel: Any = getattr(module, "emb_module", None)
            is_dense = isinstance(kernel, DenseTableBatchedEmbeddingBagsCodegen)
            if is_dense and kernel.use_cpu and kernel.pooling_mode == PoolingMode.NONE:
                kernel.forward = partial(rows_of, kernel)


def rows_of(kernel: Any, indices: torch.Tensor, offsets: torch.Tensor, **_: Any) -> torch.Tensor:
    """What the kernel would give: float32 (N, D), the rows of the ids.

    Args:
        kernel: whose weights are those of tables of one width, one after the other.
        indices: int64 (N,), of one feature after the other, each counted from the first row of its table.
        offsets: int64 (F * B + 1,), where each bag begins.
    """
    dim = kernel.embedding_specs[0][1]
    first_row_F = kernel.weights_offsets // dim
    counts_F = offsets[:: (len(offsets) - 1) // len(first_row_F)].diff()
    rows_N = indices + first_row_F.repeat_interleave(counts_F, output_size=len(indices))
    return nn.functional.embedding(rows_N, kernel.weights.view(-1, dim))
