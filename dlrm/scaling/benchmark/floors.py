"""The shortest time in which a step's work can be done, from the work and the ceilings of the machine.

There are two floors: that of the bytes that have to be moved, and that of the operations that have to be done (Williams et
al., "Roofline", CACM 2009). Both can go on at once, so a step cannot be shorter than the higher one. It is a floor of this
model in this precision on this machine, not of a better algorithm: an id that occurs twice in a batch counts twice, and so
does what a cache would save.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from dlrm.scaling.benchmark.ceilings import Ceilings
from dlrm.scaling.work import Work


@dataclass(frozen=True)
class Floors:
    """How short a step can be.

    Attributes:
        memory_ms, arithmetic_ms: the two floors.
        higher: which of them is what a step is bound by at best, ``memory`` or ``arithmetic``.
        share: of the higher floor in the time of a step: 1 if a step takes no longer than that.
    """

    memory_ms: float
    arithmetic_ms: float
    higher: str
    share: float


def floors(work: Work, ceilings: Sequence[Ceilings], *, samples: int, step_ms: float) -> Floors:
    """The floors of a step whose work is shared out evenly over the ranks.

    Args:
        work: of a sample.
        ceilings: of each rank, measured at the same time.
        samples: of a step, over all ranks.
        step_ms: what it takes.
    """
    ranks = len(ceilings)
    here = samples / ranks
    memory_s = max(
        here * (work.row_bytes / found.row_bytes_per_s + work.streamed_bytes / found.stream_bytes_per_s)
        for found in ceilings
    )
    arithmetic_s = max(here * work.flops / found.flops_per_s if work.flops else 0.0 for found in ceilings)
    higher = "memory" if memory_s >= arithmetic_s else "arithmetic"
    return Floors(memory_s * 1e3, arithmetic_s * 1e3, higher, max(memory_s, arithmetic_s) * 1e3 / step_ms)
