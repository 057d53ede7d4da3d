"""The time of a step: what ranks compute, what they exchange, and how much of it goes on at once.

How that is on devices of their own is said in :mod:`.on_devices`, how on cores that ranks share in :mod:`.on_cores`.
"""

from __future__ import annotations

from dataclasses import dataclass

from dlrm.scaling.cost import compute
from dlrm.scaling.cost.collectives import transfer_s
from dlrm.scaling.cost.compute import Seconds
from dlrm.scaling.cost.on_cores import on_cores
from dlrm.scaling.cost.on_devices import on_devices
from dlrm.scaling.cost.rates import Machine
from dlrm.scaling.cost.workload import Transfer, Workload
from dlrm.scaling.stage_names import ALL_REDUCE, COPY


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

    def plus(self, other: StepCost, times: int) -> StepCost:
        """With so many times another one after it."""

        def added(mine: dict[str, float], more: dict[str, float]) -> dict[str, float]:
            return {key: mine.get(key, 0.0) + times * more.get(key, 0.0) for key in (*mine, *more)}

        return StepCost(
            step_s=self.step_s + times * other.step_s,
            stages_s=added(self.stages_s, other.stages_s),
            by_rank_s=tuple(a + times * b for a, b in zip(self.by_rank_s, other.by_rank_s, strict=True)),
            terms_s=added(self.terms_s, other.terms_s),
            hidden_s=added(self.hidden_s, other.hidden_s),
        )

    @property
    def limiting_rank(self) -> int:
        """The one that works longest."""
        return max(range(len(self.by_rank_s)), key=self.by_rank_s.__getitem__)

    @property
    def limiting_stage(self) -> str:
        """In which most of the step is spent."""
        return max(self.stages_s, key=self.stages_s.__getitem__)


def step_cost(workload: Workload, machine: Machine) -> StepCost:
    """Of a step of the workload on the machine, all its micro-batches."""
    last = _batch_cost(workload, machine)
    others = workload.micro_batches - 1
    return last.plus(_batch_cost(workload.without_once_a_step(), machine), others) if others else last


def _batch_cost(workload: Workload, machine: Machine) -> StepCost:
    """Of a single micro-batch."""
    same = compute.dense(workload.operations, machine.rates)
    same += compute.around(workload, machine.rates)
    same = same.times(machine.factor)
    own = [seconds.times(machine.factor) for seconds in _lookups(workload, machine)]
    exchanged = Seconds()
    for transfer in workload.transfers:
        exchanged.add(transfer.stage, _term(transfer), transfer_s(transfer, machine.links, machine.domain))
    exchanged = exchanged.times(machine.factor)
    if machine.rates.cores is None:
        spent, hidden = on_devices(workload, machine, same, own, exchanged)
    else:
        spent, hidden = on_cores(workload, machine, same, own, exchanged), {}
    return StepCost(
        step_s=spent.total,
        stages_s=spent.stages(),
        by_rank_s=tuple(same.without_stage(COPY).total + seconds.total for seconds in own),
        terms_s={term: seconds / (machine.factor(term) or 1.0) for term, seconds in spent.terms().items()},
        hidden_s=hidden,
    )


def _lookups(workload: Workload, machine: Machine) -> list[Seconds]:
    """By rank; ranks with the same shards share one."""
    known: dict[object, Seconds] = {}
    found = []
    for of_rank in workload.lookups:
        if of_rank not in known:
            known[of_rank] = compute.lookups(of_rank, machine.rates)
        found.append(known[of_rank])
    return found


def _term(transfer: Transfer) -> str:
    return "all_reduce" if transfer.stage == ALL_REDUCE else "exchange"
