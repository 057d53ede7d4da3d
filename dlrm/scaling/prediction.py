"""``dlrm_main.py benchmark --predict``: what memory a rank of a training run will take, found without taking it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from rich.table import Table

from dlrm.config.benchmark import BenchmarkConfig
from dlrm.data.build import build_dataset
from dlrm.data.source import Dataset
from dlrm.distributed.collectives import OneProcess, from_rank_0, together
from dlrm.distributed.world import RankInfo, World, joined_world
from dlrm.errors import ConfigError
from dlrm.format import byte_size
from dlrm.memory import COPIES, PROCESS, SCORES, Bytes, MemoryAccount
from dlrm.run.console import Console, Display, Silent, memory_table, plan_table
from dlrm.run.log import open_log
from dlrm.run.secondary import secondary, write_json
from dlrm.scaling.benchmark import result_folder
from dlrm.sharding.hardware import hardware_of
from dlrm.sharding.report import TablePlacement
from dlrm.train.build import check_options
from dlrm.train.engine import plan_model
from dlrm.train.memory import of_most, process_bytes, scored_samples

FORMAT, VERSION = "dlrm-memory-prediction", 1
_RANKS_PER_HOST = 8
_NO_BENCHMARK_HAS = (COPIES, SCORES)


@dataclass(frozen=True)
class Prediction:
    """What each rank will take at its peak.

    Attributes:
        name: of the configuration.
        world: the ranks it is for; hardware: what each has.
        global_batch_size: samples of a step, over all ranks.
        accounts: by rank.
        plan: where the tables would be.
    """

    name: str
    world: World
    hardware: str
    global_batch_size: int
    accounts: list[MemoryAccount]
    plan: list[TablePlacement]

    def to_dict(self) -> dict[str, Any]:
        """As JSON has it, without the plan; bytes."""
        return {
            "format": FORMAT,
            "version": VERSION,
            "name": self.name,
            "ranks": self.world.size,
            "ranks_per_host": self.world.rank_info.local_world_size,
            "started": not self.world.described,
            "device": self.world.device.type,
            "hardware": self.hardware,
            "global_batch_size": self.global_batch_size,
            "missing": self.accounts[0].missing,
            "expected": [account.to_dict() for account in self.accounts],
        }


def run_prediction(config: BenchmarkConfig) -> Prediction:
    """Predict, show and write it; the same on every rank.

    Raises:
        DlrmError: what the user can mend, a model that does not fit among it.
    """
    with _world_of(config) as world:
        display: Display = Console(progress=False) if world.is_leader else Silent()
        folder = from_rank_0(world.collectives, lambda: result_folder(config, "prediction"))
        open_log(folder, world.rank, display.say)
        if world.notice:
            display.say(world.notice)
        found = predict(config, together(world.collectives, lambda: build_dataset(config.data)), world)
        for shown in texts(found):
            display.say(shown) if isinstance(shown, str) else display.show(shown)
        if world.is_leader:
            with secondary(folder / "prediction.json", display.say):
                write_json(folder / "prediction.json", found.to_dict())
            display.say(f"files in {folder}/")
    return found


def _world_of(config: BenchmarkConfig) -> AbstractContextManager[World]:
    """The ranks that run this, or those that are asked for."""
    if config.as_ranks is None:
        if config.as_ranks_per_host or config.as_device:
            raise ConfigError.at("as_ranks", "is needed with as_ranks_per_host and as_device")
        return joined_world(config.distributed)
    if RankInfo.from_environment().world_size > 1:
        raise ConfigError.at("as_ranks", "is for one process, which stands for all ranks; leave the launcher out")
    per_host = config.as_ranks_per_host or min(config.as_ranks, _RANKS_PER_HOST)
    if config.as_ranks % per_host:
        raise ConfigError.at("as_ranks_per_host", f"{config.as_ranks} ranks do not divide into hosts of {per_host}")
    device = torch.device("cuda", 0) if config.as_device else torch.device("cpu")
    rank_info = RankInfo(0, config.as_ranks, 0, per_host)
    return nullcontext(World(rank_info, device, "none", OneProcess(), described=True, device_name=config.as_device))


def predict(config: BenchmarkConfig, dataset: Dataset, world: World) -> Prediction:
    """Plan as training does, and say what each rank will take; the same on every rank.

    Raises:
        ConfigError, PlanError: what does not fit the data or the devices.
    """
    check_options(config, dataset)
    process = Bytes(host=process_bytes(config, dataset, world))
    planned = plan_model(config, dataset.schema, world, scored=scored_samples(config, dataset))
    if world.described:
        accounts = [planned.memory_of(rank).with_part(PROCESS, process) for rank in range(world.size)]
    else:
        accounts = world.collectives.all_gather_object(planned.memory_of(world.rank).with_part(PROCESS, process))
    return Prediction(
        name=config.run.name,
        world=world,
        hardware=str(hardware_of(config.sharding, world)),
        global_batch_size=config.train.global_batch_size,
        accounts=accounts,
        plan=planned.placements,
    )


def texts(found: Prediction) -> Iterator[str | Table]:
    """All there is to show, in lines and tables."""
    most = of_most(found.accounts)
    yield plan_table(found.plan)
    yield memory_table(most)
    started = "" if not found.world.described else " that is not started"
    yield (
        f"{found.name}: rank {found.accounts.index(most)} of {found.world.size}{started}, of steps of "
        f"{found.global_batch_size:,} samples, takes most: {_sizes(most)}"
    )
    if any(part in most.parts for part in _NO_BENCHMARK_HAS):
        yield f"a benchmark, which neither saves nor scores: {_sizes(most.without(_NO_BENCHMARK_HAS))}"
    yield f"planned for {found.hardware}"
    if found.world.described and found.world.device.type == "cuda":
        yield "of the host's memory, what the CUDA libraries take is not in it: they are not there"
    if most.missing:
        yield most.missing


def _sizes(account: MemoryAccount) -> str:
    total = account.total
    device = f" and {byte_size(total.device)} of its device" if total.device else ""
    return f"{byte_size(total.host)} of its host{device}"
