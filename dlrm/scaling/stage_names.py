"""The names of the stages of a step and the order in which a step comes by them, for those who only show them."""

from __future__ import annotations

from collections.abc import Iterable

DATA, COPY, LOOKUP, UPDATE = "data wait", "copy to the device", "lookup", "table update"
INPUT_DIST, OUTPUT_DIST = "input distribution", "output distribution"
LOSS, HOOKS = "loss", "hooks"
ALL_REDUCE, OPTIMIZER, OTHER = "all-reduce", "optimizer", "other"
BACKWARD = " backward"
"""With what the name of a backward pass ends."""


def in_order(stages: Iterable[str]) -> list[str]:
    """Stages in the order in which a step comes by them."""
    first = [DATA, COPY, INPUT_DIST, LOOKUP, OUTPUT_DIST]
    last = [f"{OUTPUT_DIST}{BACKWARD}", UPDATE, ALL_REDUCE, OPTIMIZER, HOOKS, OTHER]
    found = list(dict.fromkeys(stages))
    between = [stage for stage in found if stage not in (*first, *last)]
    forward = [stage for stage in between if not stage.endswith(BACKWARD)]
    forward.sort(key=lambda stage: stage == LOSS)
    backward = [f"{stage}{BACKWARD}" for stage in reversed(forward)]
    backward += [stage for stage in between if stage.endswith(BACKWARD) and stage not in backward]
    order = [*first, *forward, *backward, *last]
    return [stage for stage in order if stage in found]
