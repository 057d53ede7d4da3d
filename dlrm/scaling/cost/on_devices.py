"""A step of ranks with devices of their own, overlapped as torchrec's pipeline and DistributedDataParallel do it.

docs/performance.md tells it ("The story of a step"): the ids of the next batch are copied and exchanged behind the training
of this one; pooled embeddings come back while the bottom MLP computes, and their gradients go while its backward pass does;
dense gradients are all-reduced behind what of the backward pass is left, and behind the table update. What is not
hidden adds up. A step takes no less than its host needs to launch the kernels.
"""

from __future__ import annotations

from collections.abc import Sequence

from dlrm.scaling.cost.compute import TABLE_KERNELS, Seconds
from dlrm.scaling.cost.rates import Machine
from dlrm.scaling.cost.workload import Workload
from dlrm.scaling.stage_names import (
    ALL_REDUCE,
    BACKWARD,
    COPY,
    INPUT_DIST,
    LAUNCHES,
    OUTPUT_DIST,
    UPDATE,
    backward_of,
)

_BOTTOM = "bottom_mlp"


def on_devices(
    workload: Workload, machine: Machine, same: Seconds, own: Sequence[Seconds], exchanged: Seconds
) -> tuple[Seconds, dict[str, float]]:
    """What a step spends, and by stage what of it is hidden.

    Args:
        workload: of the step.
        machine: whose ranks have devices of their own.
        same: what every rank does.
        own: what each does besides.
        exchanged: between them.
    """
    spent = same.scaled(1.0)
    spent += max(own, key=lambda seconds: seconds.total)
    copied, work = spent.of_stage(COPY), spent.without_stage(COPY)
    behind = {OUTPUT_DIST: work.stage(_BOTTOM), backward_of(OUTPUT_DIST): work.stage(_BOTTOM + BACKWARD)}
    hidden = {stage: min(exchanged.stage(stage), room) for stage, room in behind.items()}
    backward_s = sum(seconds for stage, seconds in work.stages().items() if stage.endswith(BACKWARD))
    backward_s += work.stage(UPDATE) - hidden[backward_of(OUTPUT_DIST)]
    hidden[ALL_REDUCE] = min(exchanged.stage(ALL_REDUCE), backward_s)
    if workload.prefetches_ids:
        hidden[INPUT_DIST] = min(exchanged.stage(INPUT_DIST), work.total)
        hidden[COPY] = min(copied.total, work.total)
    exchanged += copied
    for stage, seconds in hidden.items():
        work += exchanged.of_stage(stage).scaled(1 - seconds / (exchanged.stage(stage) or 1.0))
    work += exchanged.without_stage(*hidden)
    kernels = len(workload.operations) + len(workload.updates) + TABLE_KERNELS
    launched_s = kernels * machine.rates.launch_s * machine.factor("operations")
    work.add(LAUNCHES, "operations", max(0.0, launched_s - work.total))
    return work, hidden
