"""The stages of a step, by the names that the benchmark measures them and the cost model predicts them under.

A model's children are stages of their own names (``bottom_mlp``), which are not here.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import nn

DATA, COPY = "data wait", "copy to the device"
INPUT_DIST, LOOKUP, OUTPUT_DIST, UPDATE = "input distribution", "lookup", "output distribution", "table update"
MODEL = "model"
"""What a model computes outside of its children."""
LAUNCHES = "kernel launches"
"""What a step waits for its host, which launches kernels more slowly than the device runs them."""
AVERAGING = "averaging of copies"
"""Of tables, under 2D parallelism."""
LOSS, ALL_REDUCE, OPTIMIZER, HOOKS, OTHER = "loss", "all-reduce", "optimizer", "hooks", "other"
BACKWARD = " backward"
"""With what the name of a backward pass ends."""


def stage_of(name: str, child: nn.Module) -> str:
    """Of a child of the model.

    That of the tables has what is left of the input's distribution when torchrec has named the rest. The one that waits for
    the embeddings and puts them in order counts to the output's.
    """
    # Not above: who only shows stages needs no torch.
    from dlrm.layers.pooling import PooledColumns
    from dlrm.layers.separate_rows import SeparateRows
    from dlrm.models.base import COLLECTIONS

    if isinstance(child, PooledColumns | SeparateRows):
        return OUTPUT_DIST
    return INPUT_DIST if name in COLLECTIONS else name


def backward_of(stage: str) -> str:
    """The stage in which what ``stage`` made has its backward pass."""
    if stage == OTHER:
        return OTHER
    return UPDATE if stage == LOOKUP else f"{stage}{BACKWARD}"


def in_order(stages: Iterable[str]) -> list[str]:
    """Stages in the order in which a step comes by them."""
    first = [DATA, COPY, INPUT_DIST, LOOKUP, OUTPUT_DIST]
    last = [f"{OUTPUT_DIST}{BACKWARD}", UPDATE, ALL_REDUCE, OPTIMIZER, AVERAGING, HOOKS, OTHER]
    found = list(dict.fromkeys(stages))
    between = [stage for stage in found if stage not in (*first, *last)]
    forward = [stage for stage in between if not stage.endswith(BACKWARD)]
    forward.sort(key=lambda stage: stage == LOSS)
    backward = [f"{stage}{BACKWARD}" for stage in reversed(forward)]
    backward += [stage for stage in between if stage.endswith(BACKWARD) and stage not in backward]
    order = [*first, *forward, *backward, *last]
    return [stage for stage in order if stage in found]
