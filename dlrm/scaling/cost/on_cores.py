"""A step of ranks whose host's cores compute, and carry what they exchange (CPU, gloo).

Nothing is hidden: what carries data between ranks takes the same cores. The step falls into phases between exchanges, in
which ranks wait for each other. A phase takes as long as its slowest rank. With more ranks than cores it takes at least as
long as the work of all ranks of a host on its cores (work-conserving processor sharing), and then what it costs that ranks
get in each other's way, which a calibration has measured (``crowding``).
"""

from __future__ import annotations

from collections.abc import Sequence

from dlrm.scaling.cost.compute import Seconds
from dlrm.scaling.cost.rates import Machine
from dlrm.scaling.cost.workload import Workload
from dlrm.scaling.stage_names import LOOKUP, OTHER, UPDATE


def on_cores(
    workload: Workload, machine: Machine, same: Seconds, own: Sequence[Seconds], exchanged: Seconds
) -> Seconds:
    """What a step spends.

    Args:
        workload: of the step.
        machine: with cores that ranks share.
        same: what every rank does.
        own: what each does besides.
        exchanged: between them.
    """
    assert machine.rates.cores is not None
    at_once = max(1.0, machine.rates.cores / machine.rates.threads)  # ranks of a host that have cores for themselves
    shared = max(1.0, workload.ranks_per_host / at_once)
    spent = same.scaled(shared)
    for stage in (LOOKUP, UPDATE):
        spent += _phase([seconds.of_stage(stage) for seconds in own], shared, workload.ranks_per_host)
    if shared > 1:
        spent.add(OTHER, "crowding", (machine.rates.crowding - 1) * spent.total * machine.factor("crowding"))
    spent += exchanged
    return spent


def _phase(by_rank: Sequence[Seconds], shared: float, per_host: int) -> Seconds:
    """What a phase takes: its slowest rank, or the work of all ranks of the busiest host on its cores."""
    totals = [seconds.total for seconds in by_rank]
    slowest = max(range(len(totals)), key=totals.__getitem__)
    if not totals[slowest]:
        return Seconds()
    busiest = max(sum(totals[first : first + per_host]) for first in range(0, len(totals), per_host))
    return by_rank[slowest].scaled(max(1.0, busiest / per_host * shared / totals[slowest]))
