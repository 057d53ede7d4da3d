"""``dlrm_main.py plan``: what a training takes on a cluster that need not be there, found without taking it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.table import Table

from dlrm.config.plan import PlanConfig
from dlrm.data.build import build_dataset
from dlrm.data.id_statistics.base import IdStatistics
from dlrm.data.id_statistics.sample import statistics_of
from dlrm.data.source import Dataset
from dlrm.distributed.collectives import from_rank_0, together
from dlrm.distributed.world import RankInfo, World, described_world, joined_world
from dlrm.errors import ConfigError
from dlrm.hardware.catalogue import known_device
from dlrm.run.console import Console, Display, Silent
from dlrm.run.log import open_log
from dlrm.run.secondary import secondary, write_json
from dlrm.scaling.cost.calibration import CPU, Calibration
from dlrm.scaling.cost.catalogued import catalogued_machine
from dlrm.scaling.cost.describe import measured_ids
from dlrm.scaling.cost.rates import Machine
from dlrm.scaling.folder import result_folder
from dlrm.scaling.plan.cautions import cautions
from dlrm.scaling.plan.epoch import Epoch, epoch
from dlrm.scaling.plan.forecast import Forecast, forecast
from dlrm.scaling.plan.strategies import COMMON, Strategy, compared, on_more_devices
from dlrm.scaling.plan.text import comparison_table, epoch_text, memory_texts, step_texts
from dlrm.sharding.hardware import hardware_of
from dlrm.train.build import check_options

FORMAT, VERSION = "dlrm-plan", 1
_NO_MODEL = (
    "no times: what tables cost whose rows are looked up one by one (model.kind {kind}) is not modelled; memory is"
)
_NO_SPEED = "no times: nothing is known of this machine's speed; `calibrate` measures it (then --machine FILE)"


@dataclass(frozen=True)
class ClusterPlan:
    """All that a plan says.

    Attributes:
        own: the plan as configured.
        strategies: other ways to shard; curve: other numbers of devices.
        epoch: what one costs; None without times.
        cautions: what to know, a line each; no_times: why there are no times, where there are none.
    """

    own: Forecast
    strategies: list[Strategy] = field(default_factory=list)
    curve: list[Strategy] = field(default_factory=list)
    epoch: Epoch | None = None
    cautions: tuple[str, ...] = ()
    no_times: str = _NO_SPEED

    def to_dict(self) -> dict[str, Any]:
        """As JSON has it."""

        def told(others: list[Strategy]) -> list[dict[str, Any]]:
            return [
                {"strategy": other.name, "reason": other.reason, **(other.found.to_dict() if other.found else {})}
                for other in others
            ]

        return {
            "format": FORMAT,
            "version": VERSION,
            **self.own.to_dict(),
            "epoch": None if self.epoch is None else vars(self.epoch),
            "cautions": list(self.cautions),
            "strategies": told(self.strategies),
            "curve": told(self.curve),
        }


def run_plan(config: PlanConfig) -> ClusterPlan:
    """Plan, show and write it; the same on every rank.

    Raises:
        DlrmError: what the user can mend, a model that does not fit among it.
    """
    with world_of(config) as world:
        display: Display = Console(progress=False) if world.is_leader else Silent()
        folder = from_rank_0(world.collectives, lambda: result_folder(config, config.output, "plan"))
        open_log(folder, world.rank, display.say)
        if world.notice:
            display.say(world.notice)
        dataset = together(world.collectives, lambda: build_dataset(config.data))
        found = plan_cluster(config, dataset, world)
        for shown in texts(found):
            display.say(shown) if isinstance(shown, str) else display.show(shown)
        if world.is_leader:
            with secondary(folder / "plan.json", display.say):
                write_json(folder / "plan.json", found.to_dict())
            display.say(f"files in {folder}/")
    return found


def world_of(config: PlanConfig) -> AbstractContextManager[World]:
    """The ranks that run this, or those of the cluster that is asked for."""
    if config.hosts_and_devices is None:
        return joined_world(config.distributed)
    if RankInfo.from_environment().world_size > 1:
        raise ConfigError.at("cluster", "is for one process, which stands for all ranks; leave the launcher out")
    return nullcontext(cluster_of(config))


def cluster_of(config: PlanConfig) -> World:
    """The ranks of the configuration's cluster, none of which is started."""
    assert config.hosts_and_devices is not None
    hosts, devices = config.hosts_and_devices
    return described_world(hosts * devices, devices, config.device)


def machine_of(config: PlanConfig, world: World) -> Machine | None:
    """The speed of the ranks' hardware; None where nothing is known of it, or of what the model asks of it."""
    if config.model.unpooled_histories:
        return None
    if config.machine:
        known = Calibration.read(Path(config.machine))
        if (known.name == CPU) != (world.device.type == "cpu"):
            raise ConfigError.at(
                "machine", f"{config.machine} is of {known.name}; the ranks have {config.device or 'CPUs'}"
            )
        return known.machine(world.size, world.rank_info.local_world_size)
    if world.device.type == "cpu" or known_device(hardware_of(config.sharding, world).name or "") is None:
        return None
    return catalogued_machine(config, world, config.network)


def plan_cluster(config: PlanConfig, dataset: Dataset, world: World) -> ClusterPlan:
    """Plan as training does, and compare; the same on every rank.

    Raises:
        ConfigError, PlanError: what does not fit the data or the devices.
    """
    check_options(config, dataset)
    machine = machine_of(config, world)
    ids = _ids(config, dataset) if machine else None
    own = forecast(config, dataset, world, machine, ids)

    def elsewhere(other: PlanConfig) -> Forecast:
        there = cluster_of(other)
        return forecast(other, dataset, there, machine_of(other, there), ids)

    strategies: list[Strategy] = []
    curve: list[Strategy] = []
    if config.hosts_and_devices is not None:
        strategies = compared(config, COMMON if config.compare is None else config.compare, elsewhere)
        curve = on_more_devices(config, config.curve, elsewhere)
    cost = None
    if own.cost is not None:
        device = known_device(config.device) if config.device else None
        samples = dataset.train.num_samples
        cost = epoch(samples, own.samples_per_s, world.size, device, config.usd_per_device_hour)
    found = tuple(cautions(own, hardware_of(config.sharding, world)))
    no_times = _NO_MODEL.format(kind=config.model.kind) if config.model.unpooled_histories else _NO_SPEED
    return ClusterPlan(own, strategies, curve, cost, found, no_times)


def _ids(config: PlanConfig, dataset: Dataset) -> dict[str, IdStatistics]:
    """How ids are spread, by table: as in the data, or as the command says."""
    if config.id_exponent is None:
        return measured_ids(dataset)
    return statistics_of(dataset.schema, exponent=config.id_exponent)


def texts(found: ClusterPlan) -> Iterator[str | Table]:
    """All there is to show, in lines and tables."""
    yield from memory_texts(found.own)
    yield from step_texts(found.own)
    if found.own.cost is None:
        yield found.no_times
    if found.strategies:
        yield comparison_table("Other sharding types", ("this plan", found.own), found.strategies)
    if found.curve:
        yield comparison_table("Other numbers of devices", ("this plan", found.own), found.curve)
    if found.epoch:
        yield epoch_text(found.epoch, found.own.world.size)
    for line in found.cautions:
        yield f"caution: {line}"
