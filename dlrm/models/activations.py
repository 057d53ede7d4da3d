"""What the part of a model outside of its tables takes in a step, found by running it on tensors without memory.

The model runs forward and backward on torch's fake tensors, which have shapes and no values, with a stand-in for its
tables; a tensor counts from the operator that makes it until nobody holds it any more. So no layer has to say what it
takes, and one that is added later counts as well. What a kernel takes and gives back within an operator is not seen.
"""

from __future__ import annotations

import copy
import weakref
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import chain
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.func import functional_call
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor, KeyedTensor

from dlrm.distributed.internals import DispatchMode, FakeTensors, tree_leaves
from dlrm.format import escaped, first_line
from dlrm.models.task import TrainTask
from dlrm.schema import Schema
from dlrm.table_names import table_name

LARGE = 32 << 20
"""Bytes from which on glibc maps memory for a tensor alone and gives it back with it; its heap has the smaller ones.

malloc/malloc.c, DEFAULT_MMAP_THRESHOLD_MAX of 64-bit systems: the threshold rises up to it with what is freed.
"""


@dataclass(frozen=True)
class Activations:
    """Bytes of the tensors of a step besides weights, their gradients and the batch; the tables' output is among them.

    Attributes:
        saved: at the end of the forward pass, for the backward pass.
        peak: at most; evaluated: at most in a forward pass of evaluation.
        small: at most in either, of tensors of less than :data:`LARGE` bytes; large: of the others.
        unknown: why they were not found, in a line; empty where they were.
    """

    saved: int = 0
    peak: int = 0
    evaluated: int = 0
    small: int = 0
    large: int = 0
    unknown: str = ""


def activations(
    task: TrainTask,
    schema: Schema,
    samples: int,
    device: torch.device,
    *,
    evaluation_samples: int | None = None,
    exchanged: bool = False,
) -> Activations:
    """Run a copy of ``task`` without memory; where it does not run so, say why and count nothing.

    Args:
        task: the model with its loss, before it is sharded.
        schema: of the data.
        samples: B, of a rank's part of a batch.
        device: of the step, by kind; nothing is put there.
        evaluation_samples: of its part of a batch of evaluation, 0 if there is none; the same if left out.
        exchanged: whether there are other ranks, with which the tables' output and its gradient are exchanged.
    """
    fake = FakeTensors(allow_non_fake_inputs=True)  # tensors that a module holds as plain attributes
    try:
        twin = _twin(task, fake, device, exchanged=exchanged)
        if evaluation_samples is None:
            evaluation_samples = samples
        with fake:
            saved, trained = _train(twin.train(), _batch(schema, samples, device), device)
            evaluated = _Watch()
            if evaluation_samples:
                evaluated = _evaluate(twin.eval(), _batch(schema, evaluation_samples, device), device)
    # A model may ask for a value, choose by a mask, call an operator that tells no shapes, hold what cannot be copied:
    # any error may come of that here, and the model trains all the same.
    except Exception as error:
        return Activations(unknown=escaped(f"{type(error).__name__}: {first_line(error)}", 200))
    small, large = map(max, trained.peaks, evaluated.peaks)
    return Activations(saved, trained.peak, evaluated.peak, small, large)


def _twin(task: TrainTask, fake: FakeTensors, device: torch.device, *, exchanged: bool) -> TrainTask:
    """The same modules with the same weights, but for the tables; what a forward pass notes down stays in the copy."""
    tables = task.model.tables
    shared = {id(tensor): tensor for tensor in chain(task.parameters(), task.buffers())}
    with fake:
        stand_in = _PooledEmbeddings(tables.embedding_bag_configs(), device, exchanged=exchanged)
    return copy.deepcopy(task, {**shared, id(tables): stand_in})


class _PooledEmbeddings(nn.Module):
    """Stands in for the tables: their output, float32 (B, X), in the model's order."""

    def __init__(self, configs: Iterable[Any], device: torch.device, *, exchanged: bool) -> None:
        super().__init__()
        self._dims = {table_name(config.name): config.embedding_dim for config in configs}
        self._exchanged = exchanged
        self._weight = torch.zeros((), device=device, requires_grad=True)

    def forward(self, sparse: KeyedJaggedTensor) -> KeyedTensor:
        """Whatever the ids."""
        size = sparse.stride(), sum(self._dims.values())
        pooled_BX = _Lookup.apply(self._weight, size, self._exchanged)  # type: ignore[no-untyped-call]
        return KeyedTensor(keys=list(self._dims), length_per_key=list(self._dims.values()), values=pooled_BX)


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


class _Batch(NamedTuple):
    """A :class:`~dlrm.models.task.TrainBatch`."""

    dense: torch.Tensor
    sparse: KeyedJaggedTensor
    labels: torch.Tensor
    weights: torch.Tensor
    loss_scale: torch.Tensor


def _batch(schema: Schema, samples: int, device: torch.device) -> _Batch:
    names = [feature.name for feature in schema.sparse]
    ids = samples * sum(feature.hotness for feature in schema.sparse)
    sparse = KeyedJaggedTensor(
        keys=names,
        values=torch.zeros(ids, dtype=torch.int32, device=device),
        lengths=torch.zeros(len(names) * samples, dtype=torch.int32, device=device),
        stride=samples,
    )
    dense_BN = torch.zeros(samples, len(schema.dense), device=device)
    labels_BT = torch.zeros(samples, len(schema.tasks), device=device)
    return _Batch(dense_BN, sparse, labels_BT, labels_BT, torch.zeros((), device=device))


def _state(task: TrainTask, device: torch.device) -> dict[str, torch.Tensor]:
    """What stands for weights and buffers; the weights have gradients from the start, as DDP's buckets give them."""
    state: dict[str, torch.Tensor] = {}
    for name, weight in task.named_parameters():
        state[name] = torch.zeros(weight.shape, dtype=weight.dtype, device=device, requires_grad=True)
        state[name].grad = torch.zeros_like(state[name])
    for name, buffer in task.named_buffers():
        state[name] = torch.zeros(buffer.shape, dtype=buffer.dtype, device=device)
    return state


def _train(task: TrainTask, batch: _Batch, device: torch.device) -> tuple[int, _Watch]:
    state = _state(task, device)
    with _Watch() as watch:
        loss, outputs = functional_call(task, state, (batch,))
        saved = watch.live
        loss.backward()
    del outputs
    return saved, watch


def _evaluate(task: TrainTask, batch: _Batch, device: torch.device) -> _Watch:
    state = _state(task, device)
    watch = _Watch()
    with torch.no_grad(), watch:
        functional_call(task, state, (batch,))
    return watch


class _Watch(DispatchMode):
    """Counts the bytes that operators make while it is on.

    Attributes:
        peak: the most that was held by somebody at once.
        peaks: the same of small tensors (False) and of large ones (True).
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.peak = 0
        self.peaks, self._live = [0, 0], [0, 0]
        self._known: weakref.WeakSet[Any] = weakref.WeakSet()

    @property
    def live(self) -> int:
        """Of what is held by somebody."""
        return sum(self._live)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run an operator, and count what it returns and was not given."""
        self._known.update(_storages((args, kwargs)))
        result = func(*args, **(kwargs or {}))
        for storage in _storages(result):
            if storage not in self._known:
                size: int = storage.nbytes()
                self._known.add(storage)
                self._live[size >= LARGE] += size
                weakref.finalize(storage, self._free, size)
        self.peak = max(self.peak, self.live)
        self.peaks = [max(pair) for pair in zip(self.peaks, self._live, strict=True)]
        return result

    def _free(self, size: int) -> None:
        self._live[size >= LARGE] -= size


def _storages(values: Any) -> list[torch.UntypedStorage]:
    return [leaf.untyped_storage() for leaf in tree_leaves(values) if isinstance(leaf, torch.Tensor)]
