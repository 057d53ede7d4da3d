"""What a training takes on given ranks: where its tables go, the memory of each rank, the time of a step."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from dlrm.config import Config
from dlrm.data.id_statistics.base import IdStatistics
from dlrm.data.source import Dataset
from dlrm.distributed.world import World
from dlrm.memory import PROCESS, Bytes, MemoryAccount
from dlrm.scaling.cost.describe import workload_of
from dlrm.scaling.cost.rates import Machine
from dlrm.scaling.cost.step import StepCost, step_cost
from dlrm.scaling.cost.workload import Workload, bytes_by_collective
from dlrm.sharding.hardware import hardware_of
from dlrm.sharding.report import TablePlacement
from dlrm.train.engine import plan_model
from dlrm.train.memory import of_most, process_bytes, scored_samples

_BAND = 1.28  # standard deviations to either side: four of five steps are within


@dataclass(frozen=True)
class Forecast:
    """Of a training on given ranks.

    Attributes:
        name: of the configuration.
        world: the ranks; hardware: what each has.
        global_batch_size: samples of a step, over all ranks.
        accounts: of memory, by rank.
        plan: where the tables are; reserved: share of the memory that the planner leaves free besides.
        workload: of a step; None without a cost.
        cost: of that; machine: on which. None where nothing is known of the hardware's speed.
    """

    name: str
    world: World
    hardware: str
    global_batch_size: int
    accounts: list[MemoryAccount]
    plan: list[TablePlacement]
    reserved: float
    workload: Workload | None = None
    cost: StepCost | None = None
    machine: Machine | None = None

    @property
    def most(self) -> MemoryAccount:
        """Of the rank that takes most."""
        return of_most(self.accounts)

    @property
    def step_s(self) -> float:
        """Of a whole step."""
        assert self.cost is not None
        return self.cost.step_s

    @property
    def samples_per_s(self) -> float:
        """Of all ranks."""
        return self.global_batch_size / self.step_s

    def band(self, value: float) -> tuple[float, float]:
        """Between what four of five measured values of this kind are expected."""
        spread = self.machine.spread if self.machine else 0.0
        return value * math.exp(-_BAND * spread), value * math.exp(_BAND * spread)

    def to_dict(self) -> dict[str, Any]:
        """As JSON has it, without the plan; bytes and seconds."""
        found: dict[str, Any] = {
            "name": self.name,
            "ranks": self.world.size,
            "ranks_per_host": self.world.rank_info.local_world_size,
            "started": not self.world.described,
            "device": self.world.device.type,
            "hardware": self.hardware,
            "global_batch_size": self.global_batch_size,
            "reserved": self.reserved,
            "missing": self.accounts[0].missing,
            "expected": [account.to_dict() for account in self.accounts],
        }
        if self.cost and self.workload and self.machine:
            found |= {
                "speed": self.machine.source,
                "step_s": self.step_s,
                "step_s_band": self.band(self.step_s),
                "samples_per_s": self.samples_per_s,
                "stages_s": self.cost.stages_s,
                "hidden_s": self.cost.hidden_s,
                "work_s_by_rank": self.cost.by_rank_s,
                "limiting_rank": self.cost.limiting_rank,
                "limiting_stage": self.cost.limiting_stage,
                "bytes_by_collective": bytes_by_collective(self.workload),
            }
        return found


def forecast(
    config: Config,
    dataset: Dataset,
    world: World,
    machine: Machine | None,
    ids: Mapping[str, IdStatistics] | None = None,
) -> Forecast:
    """Plan as training does, and say what it takes; the same on every rank.

    Args:
        config: of the training.
        dataset: its samples.
        world: the ranks.
        machine: its speed, if it is known.
        ids: how ids are spread, by table, as far as it is known.

    Raises:
        ConfigError, PlanError: what does not fit the data or the devices.
    """
    process = Bytes(host=process_bytes(config, dataset, world))
    planned = plan_model(config, dataset.schema, world, scored=scored_samples(config, dataset))
    if world.described:
        accounts = [planned.memory_of(rank).with_part(PROCESS, process) for rank in range(world.size)]
    else:
        accounts = world.collectives.all_gather_object(planned.memory_of(world.rank).with_part(PROCESS, process))
    workload = workload_of(config, dataset.schema, planned, world, ids) if machine else None
    return Forecast(
        name=config.run.name,
        world=world,
        hardware=str(hardware_of(config.sharding, world)),
        global_batch_size=config.train.global_batch_size,
        accounts=accounts,
        plan=planned.placements,
        reserved=config.sharding.reserve_fraction,
        workload=workload,
        cost=step_cost(workload, machine) if workload and machine else None,
        machine=machine,
    )
