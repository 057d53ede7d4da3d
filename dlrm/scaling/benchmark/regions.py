"""Names for the parts of a step, put around them from outside and taken off again.

While nothing is measured no line of this runs, and the trainer's code knows nothing of it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from torch import nn
from torch.autograd.profiler import record_function

from dlrm.models.base import Model
from dlrm.models.task import TrainTask
from dlrm.scaling.stage_names import HOOKS, LOSS, MODEL, stage_of
from dlrm.train.engine import Engine
from dlrm.train.hooks import Hook
from dlrm.train.schedule import Position
from dlrm.train.stepper import StepOutput

OWN = "dlrm: "
"""With which the names of our regions begin; the rest is the stage."""
STEP = f"{OWN}step"
"""A region without length at the end of each step."""


@contextmanager
def named_parts(engine: Engine) -> Iterator[None]:
    """Inside of the block the parts of the model's forward pass are regions.

    A child of the model with something to do is a stage of its name (:func:`dlrm.scaling.stage_names.stage_of`).
    """
    handles: list[Any] = []
    for module in engine.model.modules():
        if isinstance(module, TrainTask):
            handles += _name(module, LOSS)
        if isinstance(module, Model):
            handles += _name(module, MODEL)
            for name, child in module.named_children():
                if not isinstance(child, nn.Identity):
                    handles += _name(child, stage_of(name, child))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _name(module: nn.Module, stage: str) -> list[Any]:
    """Make calls of a module regions; what undoes it."""
    entered: list[record_function] = []

    def begin(*_: Any) -> None:
        entered.append(record_function(f"{OWN}{stage}"))
        entered[-1].__enter__()

    def end(*_: Any) -> None:
        entered.pop().__exit__(None, None, None)

    return [module.register_forward_pre_hook(begin), module.register_forward_hook(end)]


class NamedHooks(Hook):
    """Other hooks as one, whose work at a step is a region; then the step is over."""

    def __init__(self, hooks: Sequence[Hook]) -> None:
        self._hooks = hooks

    def on_start(self, position: Position) -> None:
        """Tell each."""
        for hook in self._hooks:
            hook.on_start(position)

    def on_end(self, position: Position, reason: str) -> None:
        """Tell each."""
        for hook in self._hooks:
            hook.on_end(position, reason)

    def on_step(self, position: Position, output: StepOutput) -> None:
        """Let each see the step."""
        with record_function(f"{OWN}{HOOKS}"):
            for hook in self._hooks:
                hook.on_step(position, output)
        with record_function(STEP):
            pass
