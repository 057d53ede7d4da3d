"""A copy of a model that runs forward and backward on tensors without memory, with a stand-in for its tables.

Torch's fake tensors have shapes and no values. So what a step takes can be seen of a model of any size, on any machine.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable
from itertools import chain
from typing import Any, NamedTuple

import torch
from torch import nn
from torchrec.sparse.jagged_tensor import JaggedTensor, KeyedJaggedTensor, KeyedTensor

from dlrm.distributed.internals import FakeTensors
from dlrm.models.task import TrainTask
from dlrm.schema import Schema


def twin_of(task: TrainTask, fake: FakeTensors, device: torch.device, *, exchanged: bool) -> TrainTask:
    """The same modules with the same weights, but for the tables; what a forward pass notes down stays in the copy."""
    tables, unpooled = task.model.tables, task.model.sequence_tables
    shared = {id(tensor): tensor for tensor in chain(task.parameters(), task.buffers())}
    with fake:
        pooled = PooledEmbeddings(tables.embedding_bag_configs(), device, exchanged=exchanged)
        stand_ins: dict[int, nn.Module] = {id(tables): pooled}
        if unpooled is not None:
            stand_ins[id(unpooled)] = UnpooledEmbeddings(unpooled.embedding_configs(), device, exchanged=exchanged)
    return copy.deepcopy(task, {**shared, **stand_ins})


class _Embeddings(nn.Module):
    def __init__(self, configs: Iterable[Any], device: torch.device, *, exchanged: bool) -> None:
        super().__init__()
        self._dims = {name: config.embedding_dim for config in configs for name in config.feature_names}
        self._exchanged = exchanged
        self._weight = torch.zeros((), device=device, requires_grad=True)


class PooledEmbeddings(_Embeddings):
    """Stands in for the tables: their output, float32 (B, X), a column block for each feature of a table."""

    def forward(self, sparse: KeyedJaggedTensor) -> KeyedTensor:
        """Whatever the ids."""
        size = sparse.stride(), sum(self._dims.values())
        pooled_BX = _Lookup.apply(self._weight, size, self._exchanged)  # type: ignore[no-untyped-call]
        return KeyedTensor(keys=list(self._dims), length_per_key=list(self._dims.values()), values=pooled_BX)


class UnpooledEmbeddings(_Embeddings):
    """Stands in for tables whose rows are not summed: float32 (R, D) of each feature."""

    def forward(self, sparse: KeyedJaggedTensor) -> dict[str, JaggedTensor]:
        """Whatever the ids; as many of each feature as the batch has."""
        found = {}
        for name, dim in self._dims.items():
            ids = sparse[name]
            size = len(ids.values()), dim
            rows_RD = _Lookup.apply(self._weight, size, self._exchanged)  # type: ignore[no-untyped-call]
            found[name] = JaggedTensor(values=rows_RD, lengths=ids.lengths())
        return found


class _Lookup(torch.autograd.Function):
    """Takes as much memory as fbgemm's lookup and torchrec's exchange do, forward and backward.

    A rank is taken to look up as much for others as others do for it.
    """

    @staticmethod
    def forward(ctx: Any, weight: torch.Tensor, size: tuple[int, int], exchanged: bool) -> torch.Tensor:
        ctx.exchanged = exchanged
        taken = [weight.new_empty(size) for _ in range(1 + 2 * exchanged)]  # looked up, received, in the model's order
        return taken[-1]

    @staticmethod
    def backward(ctx: Any, grad_BX: torch.Tensor) -> tuple[None, None, None]:
        taken = [grad_BX.contiguous()]
        for _ in range(2 * ctx.exchanged):  # sent, received
            taken.append(torch.empty_like(taken[0]))
        return None, None, None


class FakeBatch(NamedTuple):
    """A :class:`~dlrm.models.task.TrainBatch`."""

    dense: torch.Tensor
    sparse: KeyedJaggedTensor
    labels: torch.Tensor
    weights: torch.Tensor
    loss_scale: torch.Tensor


def fake_batch(schema: Schema, samples: int, device: torch.device) -> FakeBatch:
    """Of ``samples`` whose bags have as many ids as the schema says at most."""
    names = [feature.name for feature in schema.sparse]
    counts = [samples * feature.hotness for feature in schema.sparse]
    ids = sum(counts)
    sparse = KeyedJaggedTensor(
        keys=names,
        values=torch.zeros(ids, dtype=torch.int32, device=device),
        weights=torch.zeros(ids, device=device) if schema.ids_have_weights else None,
        lengths=torch.zeros(len(names) * samples, dtype=torch.int32, device=device),
        stride=samples,
        length_per_key=counts,
    )
    dense_BN = torch.zeros(samples, len(schema.dense), device=device)
    labels_BT = torch.zeros(samples, len(schema.tasks), device=device)
    return FakeBatch(dense_BN, sparse, labels_BT, labels_BT, torch.zeros((), device=device))


def fake_state(task: TrainTask, device: torch.device) -> dict[str, torch.Tensor]:
    """What stands for weights and buffers; the weights have gradients from the start, as DDP's buckets give them."""
    state: dict[str, torch.Tensor] = {}
    for name, weight in task.named_parameters():
        state[name] = torch.zeros(weight.shape, dtype=weight.dtype, device=device, requires_grad=True)
        state[name].grad = torch.zeros_like(state[name])
    for name, buffer in task.named_buffers():
        state[name] = torch.zeros(buffer.shape, dtype=buffer.dtype, device=device)
    return state
