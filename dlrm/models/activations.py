"""What the part of a model outside of its tables takes in a step, found by running it on tensors without memory.

The model runs forward and backward on torch's fake tensors, which have shapes and no values, with a stand-in for its
tables; a tensor counts from the operator that makes it until nobody holds it any more. So no layer has to say what it
takes, and one that is added later counts as well. What a kernel takes and gives back within an operator is not seen.
"""

from __future__ import annotations

import weakref
from dataclasses import dataclass
from typing import Any

import torch
from torch.func import functional_call

from dlrm.distributed.internals import DispatchMode, FakeTensors, tree_leaves
from dlrm.format import escaped, first_line
from dlrm.models.task import TrainTask
from dlrm.models.twin import FakeBatch, fake_batch, fake_state, twin_of
from dlrm.schema import Schema

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
        samples: B, of a rank's part of a batch; 0 if nothing is trained.
        device: of the step, by kind; nothing is put there.
        evaluation_samples: of its part of a batch of evaluation, 0 if there is none; the same if left out.
        exchanged: whether there are other ranks, with which the tables' output and its gradient are exchanged.
    """
    fake = FakeTensors(allow_non_fake_inputs=True)  # tensors that a module holds as plain attributes
    try:
        twin = twin_of(task, fake, device, exchanged=exchanged)
        if evaluation_samples is None:
            evaluation_samples = samples
        saved, trained, evaluated = 0, _Watch(), _Watch()
        with fake:
            if samples:
                saved, trained = _train(twin.train(), fake_batch(schema, samples, device), device)
            if evaluation_samples:
                evaluated = _evaluate(twin.eval(), fake_batch(schema, evaluation_samples, device), device)
    # A model may ask for a value, choose by a mask, call an operator that tells no shapes, hold what cannot be copied:
    # any error may come of that here, and the model trains all the same.
    except Exception as error:
        return Activations(unknown=escaped(f"{type(error).__name__}: {first_line(error)}", 200))
    small, large = map(max, trained.peaks, evaluated.peaks)
    return Activations(saved, trained.peak, evaluated.peak, small, large)


def _train(task: TrainTask, batch: FakeBatch, device: torch.device) -> tuple[int, _Watch]:
    state = fake_state(task, device)
    with _Watch() as watch:
        loss, outputs = functional_call(task, state, (batch,))
        saved = watch.live
        loss.backward()
    del outputs
    return saved, watch


def _evaluate(task: TrainTask, batch: FakeBatch, device: torch.device) -> _Watch:
    state = fake_state(task, device)
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
