"""The time of a step: what ranks compute, what they exchange, and how much of it goes on at once.

On *devices of their own* (GPUs) the pipeline of torchrec overlaps as docs/performance.md tells ("The story of a step"):
the ids of the next batch are exchanged, and copied, behind the training of this one; pooled embeddings come back while the
bottom MLP computes, and their gradients go while its backward pass does; dense gradients are all-reduced behind what of the
backward pass is left, and behind the table update. What is not hidden adds up. A step takes no less than its host needs to
launch the kernels.

On *shared cores* (CPU, gloo) nothing is hidden, as what carries data between ranks takes the same cores. The step falls
into phases between exchanges, in which ranks wait for each other. A phase takes as long as its slowest rank; with more
ranks than cores, also as long as all ranks' work takes on all cores (work-conserving processor sharing).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from dlrm.scaling.cost import compute
from dlrm.scaling.cost.collectives import transfer_s
from dlrm.scaling.cost.compute import Seconds
from dlrm.scaling.cost.rates import Machine
from dlrm.scaling.cost.workload import Transfer, Workload
from dlrm.scaling.stage_names import (
    ALL_REDUCE,
    BACKWARD,
    COPY,
    INPUT_DIST,
    LOOKUP,
    OTHER,
    OUTPUT_DIST,
    UPDATE,
    backward_of,
)

_BOTTOM = "bottom_mlp"
_TABLE_KERNELS = 60  # of lookups, updates, and the order of ids and embeddings, on rehearsed CUDA (docs/rehearsal.md)


@dataclass(frozen=True)
class StepCost:
    """What a step takes.

    Attributes:
        step_s: of the job.
        stages_s: what of it is spent in each stage, on the rank that takes longest, and not hidden behind others.
        by_rank_s: what each rank works, without waiting for others.
        terms_s: ``step_s`` by term of the model, before their factors.
        hidden_s: by stage, what goes on behind others.
    """

    step_s: float
    stages_s: dict[str, float]
    by_rank_s: tuple[float, ...]
    terms_s: dict[str, float]
    hidden_s: dict[str, float]

    @property
    def limiting_rank(self) -> int:
        """The one that works longest."""
        return max(range(len(self.by_rank_s)), key=self.by_rank_s.__getitem__)

    @property
    def limiting_stage(self) -> str:
        """In which most of the step is spent."""
        return max(self.stages_s, key=self.stages_s.__getitem__)


def step_cost(workload: Workload, machine: Machine) -> StepCost:
    """Of a step of the workload on the machine."""
    same = compute.dense(workload.operations, machine.rates)
    same += compute.around(workload, machine.rates)
    own = _distinct_lookups(workload, machine)
    transfers = [(transfer, _transfer_s(transfer, workload, machine)) for transfer in workload.transfers]
    if machine.rates.cores is not None:
        return _on_shared_cores(workload, machine, same, own, transfers)
    return _on_devices(workload, machine, same, own, transfers)


def _distinct_lookups(workload: Workload, machine: Machine) -> list[Seconds]:
    """By rank; ranks with the same shards share one."""
    known: dict[object, Seconds] = {}
    found = []
    for of_rank in workload.lookups:
        if of_rank not in known:
            known[of_rank] = compute.lookups(of_rank, machine.rates)
        found.append(known[of_rank])
    return found


def _transfer_s(transfer: Transfer, workload: Workload, machine: Machine) -> float:
    inside = max(workload.ranks_per_host, min(machine.domain, workload.ranks))
    return transfer_s(transfer, machine.links, ranks=workload.ranks, ranks_per_host=inside)


def _term(transfer: Transfer) -> str:
    return "all_reduce" if transfer.stage == ALL_REDUCE else "exchange"


def _corrected(seconds: Seconds, machine: Machine) -> Seconds:
    return Seconds({(stage, term): s * machine.factor(term) for (stage, term), s in seconds.by.items()})


def _by_term(parts: Iterable[Seconds]) -> dict[str, float]:
    found: dict[str, float] = {}
    for part in parts:
        for (_, term), seconds in part.by.items():
            found[term] = found.get(term, 0.0) + seconds
    return found


def _on_shared_cores(
    workload: Workload,
    machine: Machine,
    same: Seconds,
    own: Sequence[Seconds],
    transfers: Sequence[tuple[Transfer, float]],
) -> StepCost:
    assert machine.rates.cores is not None
    at_once = max(1.0, machine.rates.cores / machine.rates.threads)  # ranks of a host that have cores for themselves
    shared = max(1.0, workload.ranks_per_host / at_once)
    spent = [same.scaled(shared)]
    for phase in (LOOKUP, UPDATE):
        spent.append(_phase([_of_stage(seconds, phase) for seconds in own], machine, shared, workload.ranks_per_host))
    crowded = Seconds()
    crowded.add(OTHER, "crowding", (machine.rates.crowding - 1) * sum(part.total for part in spent))
    spent.append(crowded)
    exchanged = Seconds()
    for transfer, seconds in transfers:
        exchanged.add(transfer.stage, _term(transfer), seconds)
    spent.append(exchanged)
    whole = Seconds()
    for part in spent:
        whole += _corrected(part, machine)
    by_rank = tuple(_corrected(same, machine).total + _corrected(seconds, machine).total for seconds in own)
    return StepCost(whole.total, whole.stages(), by_rank, _by_term(spent), {})


def _of_stage(seconds: Seconds, stage: str) -> Seconds:
    return Seconds({key: value for key, value in seconds.by.items() if key[0] == stage})


def _phase(by_rank: Sequence[Seconds], machine: Machine, shared: float, per_host: int) -> Seconds:
    """What a phase takes: its slowest rank, or the work of all ranks of the busiest host on its cores."""
    totals = [_corrected(seconds, machine).total for seconds in by_rank]
    slowest = max(range(len(totals)), key=totals.__getitem__)
    hosts = [range(first, first + per_host) for first in range(0, len(totals), per_host)]
    busiest = max(hosts, key=lambda ranks: sum(totals[rank] for rank in ranks))
    mean = sum(totals[rank] for rank in busiest) / per_host * shared
    if not totals[slowest]:
        return Seconds()
    return by_rank[slowest].scaled(max(1.0, mean / totals[slowest]))


def _on_devices(
    workload: Workload,
    machine: Machine,
    same: Seconds,
    own: Sequence[Seconds],
    transfers: Sequence[tuple[Transfer, float]],
) -> StepCost:
    every = [_corrected(same, machine) for _ in own]
    slowest = max(own, key=lambda seconds: _corrected(seconds, machine).total)
    work = _corrected(same, machine)
    work += _corrected(slowest, machine)
    moved = Seconds()
    for transfer, seconds in transfers:
        moved.add(transfer.stage, _term(transfer), seconds * machine.factor(_term(transfer)))
    stages, exchange = work.stages(), moved.stages()
    hidden: dict[str, float] = {}
    back = backward_of(OUTPUT_DIST)
    computed = sum(seconds for stage, seconds in stages.items() if stage != COPY)

    def hide(stage: str, behind: float, of: dict[str, float]) -> None:
        covered = min(of.get(stage, 0.0), behind)
        hidden[stage] = hidden.get(stage, 0.0) + covered
        of[stage] = of.get(stage, 0.0) - covered

    hide(OUTPUT_DIST, stages.get(_BOTTOM, 0.0), exchange)
    hide(back, stages.get(_BOTTOM + BACKWARD, 0.0), exchange)
    of_backward = sum(seconds for stage, seconds in stages.items() if stage.endswith(BACKWARD)) + stages.get(
        UPDATE, 0.0
    )
    hide(ALL_REDUCE, max(0.0, of_backward - hidden.get(back, 0.0)), exchange)
    if workload.prefetches_ids:
        hide(INPUT_DIST, computed, exchange)
        hide(COPY, computed, stages)
    whole = {stage: stages.get(stage, 0.0) + exchange.get(stage, 0.0) for stage in (*stages, *exchange)}
    by_rank = tuple(
        shared.total + _corrected(seconds, machine).total for shared, seconds in zip(every, own, strict=True)
    )
    terms = _by_term([same, slowest])
    for transfer, seconds in transfers:
        terms[_term(transfer)] = terms.get(_term(transfer), 0.0) + seconds
    launched_s = (len(workload.operations) + _TABLE_KERNELS) * machine.rates.launch_s * machine.factor("operations")
    whole[OTHER] = whole.get(OTHER, 0.0) + max(0.0, launched_s - sum(whole.values()))
    return StepCost(sum(whole.values()), whole, by_rank, terms, hidden)
