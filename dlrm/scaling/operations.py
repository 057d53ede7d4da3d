"""The operators that the part of a model outside of its tables runs in a step, found without running them.

A copy of the model runs forward and backward on tensors without memory (:mod:`dlrm.models.twin`), and each operator's
shapes are noted. So no layer has to say what it computes, and one that is added later counts by itself.

Suffixes: m, k, n as in the product of an (m, k) and a (k, n) matrix.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn
from torch.func import functional_call

from dlrm.distributed.internals import DispatchMode, FakeTensors, current_node, next_sequence_number, tree_leaves
from dlrm.models.base import Model
from dlrm.models.task import TrainTask
from dlrm.models.twin import fake_batch, fake_state, twin_of
from dlrm.scaling.stage_names import ALL_REDUCE, BACKWARD, INPUT_DIST, LOSS, MODEL, OTHER, backward_of, stage_of
from dlrm.scaling.work import Product
from dlrm.schema import Schema

_PRODUCTS = {"mm": 0, "addmm": 1, "bmm": 0, "baddbmm": 1}
"""Operators that are matrix products, with the place of their first factor."""
_OF_THE_TABLES = (INPUT_DIST, backward_of(INPUT_DIST))
_TOUCH_NOTHING = ("empty", "empty_like", "new_empty", "empty_strided", "new_empty_strided", "detach")


@dataclass(frozen=True)
class Operation:
    """An operator of a step.

    Attributes:
        stage: in which it runs, forward or backward.
        product: what it multiplies; None of all others.
        bytes: of the tensors it reads and writes, each once; 0 of a product, which tells of its own.
        made: of them, those of tensors that it makes.
    """

    stage: str
    product: Product | None
    bytes: int
    made: int = 0

    @property
    def part(self) -> str:
        """The model's part whose forward or backward pass it belongs to."""
        return self.stage.removesuffix(BACKWARD)

    def lowered(self, dtype: torch.dtype) -> Operation:
        """The same on tensors of ``dtype`` instead of float32."""
        product = self.product and replace(self.product, dtype=dtype)
        share = dtype.itemsize / torch.float32.itemsize
        return replace(self, product=product, bytes=int(self.bytes * share), made=int(self.made * share))


def operations(task: TrainTask, schema: Schema, samples: int, device: torch.device) -> list[Operation]:
    """Of a training step of a rank, in their order; the loss and its backward pass are among them, the tables are not.

    Args:
        task: the model with its loss, before it is sharded.
        schema: of the data.
        samples: B, of the rank's part of a batch.
        device: of the step, by kind; nothing is put there.

    Raises:
        Exception: whatever a model raises that does not run on tensors without values.
    """
    fake = FakeTensors(allow_non_fake_inputs=True)
    twin = twin_of(task, fake, device, exchanged=False).train()
    with fake, _Stages(twin) as stages:
        state, batch = fake_state(twin, device), fake_batch(schema, samples, device)
        with _Watch(stages.now) as watch:
            loss, _ = functional_call(twin, state, (batch,))
            stages.forward_is_over()
            loss.backward()
    return list(watch.found)


def operations_of(work: Callable[[], object], stage: str) -> list[Operation]:
    """Of whatever ``work`` does to fake tensors."""
    with _Watch(lambda: stage) as watch:
        work()
    return list(watch.found)


class _Stages:
    """Which stage runs: forward by the module, backward by the module that made the node of autograd."""

    def __init__(self, task: TrainTask) -> None:
        self._running: list[str] = []
        self._made: list[tuple[int, int, str]] = []  # first and last sequence number of the nodes that a stage made
        self._backward = False
        self._handles: list[Any] = []
        self._task = task

    def __enter__(self) -> _Stages:
        self._name(self._task, LOSS)
        for module in self._task.modules():
            if isinstance(module, Model):
                self._name(module, MODEL)
                for name, child in module.named_children():
                    if not isinstance(child, nn.Identity):
                        self._name(child, stage_of(name, child))
        return self

    def __exit__(self, *_: object) -> None:
        for handle in self._handles:
            handle.remove()

    def _name(self, module: nn.Module, stage: str) -> None:
        began: list[int] = []

        def begin(*_: Any) -> None:
            began.append(next_sequence_number())
            self._running.append(stage)

        def end(*_: Any) -> None:
            self._made.append((began.pop(), next_sequence_number(), stage))
            self._running.pop()

        self._handles += [module.register_forward_pre_hook(begin), module.register_forward_hook(end)]

    def forward_is_over(self) -> None:
        """From here on nodes of autograd run."""
        self._backward = True

    def now(self) -> str:
        """The stage that runs."""
        if not self._backward:
            return self._running[-1] if self._running else OTHER
        node = current_node()
        if node is None:
            return OTHER
        if "AccumulateGrad" in node.name():
            return ALL_REDUCE
        number = node._sequence_nr()
        # Inner modules end first, so the first that holds the number is the innermost.
        made_in = next((stage for first, last, stage in self._made if first <= number < last), OTHER)
        return backward_of(made_in)


class _Watch(DispatchMode):
    """Notes the operators that run while it is on."""

    def __init__(self, stage: Callable[[], str]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.found: list[Operation] = []
        self._stage = stage

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run an operator, and note it unless it only looks at tensors in another way, or asks where they are."""
        result = func(*args, **(kwargs or {}))
        read = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)]
        written = [leaf for leaf in tree_leaves(result) if isinstance(leaf, torch.Tensor)]
        name = func._schema.name.removeprefix("aten::")
        stage = self._stage()
        touches = name not in _TOUCH_NOTHING and not _only_looks(func, read, written)
        if touches and stage not in _OF_THE_TABLES:
            self.found.append(Operation(stage, *self._work(name, args, read, written)))
        return result

    @staticmethod
    def _work(
        name: str, args: Any, read: list[torch.Tensor], written: list[torch.Tensor]
    ) -> tuple[Product | None, int, int]:
        known = {tensor.untyped_storage()._cdata for tensor in read}
        made = sum(_bytes(tensor) for tensor in written if tensor.untyped_storage()._cdata not in known)
        if name not in _PRODUCTS:
            return None, sum(_bytes(tensor) for tensor in (*read, *written)), made
        first = _PRODUCTS[name]
        left, right = args[first], args[first + 1]
        m, k, n = left.shape[-2], left.shape[-1], right.shape[-1]
        batch = left.shape[0] if left.dim() == 3 else 1
        square = m == n and left.untyped_storage()._cdata == right.untyped_storage()._cdata
        return Product(m, k, n, batch, square, left.dtype), 0, made


def _only_looks(func: Any, read: list[torch.Tensor], written: list[torch.Tensor]) -> bool:
    """Whether it makes and changes nothing: views, and ``prim::device``, which fake tensors call for themselves."""
    if func._schema.is_mutable:
        return False
    known = {tensor.untyped_storage()._cdata for tensor in read}
    return all(tensor.untyped_storage()._cdata in known for tensor in written)


def _bytes(tensor: torch.Tensor) -> int:
    """Of its elements; those of a broadcast dimension count once."""
    count = 1
    for size, stride in zip(tensor.shape, tensor.stride(), strict=True):
        count *= size if stride else 1
    return count * tensor.element_size()
