"""What the planner is told of devices, memory and networks, and from where each figure comes.

torchrec's own figures are a V100's. Here the device's name finds its figures in the catalogue (:mod:`dlrm.hardware`); an
option of ``sharding`` goes before them, and torchrec's default stands in for what neither says.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

import torch
from torchrec.distributed.planner import Topology, constants
from torchrec.distributed.planner.types import HardwareConfig, KernelConfig, TopologyFactory, TrainerConfig

from dlrm.config.sharding import ShardingConfig
from dlrm.distributed.world import World
from dlrm.errors import PlanError
from dlrm.hardware.catalogue import devices, known_device
from dlrm.hardware.host import memory_bytes

_GIB = 1 << 30
_GB = 10**9
_TORCHREC_UNIT = 1000 / _GIB  # bytes a millisecond, as GiB/s
_NO_END = 1 << 60  # bytes


@dataclass(frozen=True)
class Bandwidths:
    """What the planner weighs plans with, GiB/s; links count one direction.

    Attributes:
        device: of a device's memory; host: of a host's memory, for one rank; host_to_device: between the two.
        intra_host: between two devices of a host; inter_host: to other hosts, for one device.
    """

    device: float
    host: float
    host_to_device: float
    intra_host: float
    inter_host: float

    def __str__(self) -> str:
        told = (f"{field.name.replace('_', ' ')} {getattr(self, field.name):,.4g}" for field in fields(self))
        return f"GiB/s: {', '.join(told)}"


def bandwidths(config: ShardingConfig, device_name: str | None) -> Bandwidths:
    """The figures of the options, of the catalogue's device (by its name; None on CPU), of torchrec: the first there is."""
    known = known_device(device_name or "")

    def first(option: float | None, of_device: float | None, of_torchrec: float) -> float:
        if option is not None:
            return option
        return of_torchrec * _TORCHREC_UNIT if of_device is None else of_device * _GB / _GIB

    return Bandwidths(
        device=first(config.device_gib_s, known.memory_gb_s if known else None, constants.HBM_MEM_BW),
        host=first(config.host_gib_s, None, constants.DDR_MEM_BW),
        host_to_device=first(
            config.host_to_device_gib_s, known.host_gb_s if known else None, constants.HBM_TO_DDR_MEM_BW
        ),
        intra_host=first(config.intra_host_gib_s, known.link_gb_s if known else None, constants.INTRA_NODE_BANDWIDTH),
        inter_host=first(
            config.inter_host_gib_s, known.network_gb_s if known else None, constants.CROSS_NODE_BANDWIDTH
        ),
    )


@dataclass(frozen=True)
class Hardware:
    """What a rank has, as the planner is told.

    Attributes:
        name: of the device; None on CPU.
        bandwidths: of its memories and links.
        device_bytes, host_bytes: memory for tables and what goes with them; on CPU there is the host's only.
    """

    name: str | None
    bandwidths: Bandwidths
    device_bytes: int
    host_bytes: int

    def __str__(self) -> str:
        host = "all" if self.host_bytes == _NO_END else f"{self.host_bytes / _GIB:.3g} GiB"
        if self.name is None:
            return f"CPU, {host} a rank; {self.bandwidths}"
        known = "" if known_device(self.name) else " (not in the catalogue; torchrec's figures are a V100's)"
        memory = f"{self.device_bytes / _GIB:.3g} GiB and {host} of the host a rank"
        return f"{self.name}{known}, {memory}; {self.bandwidths}"

    def with_room(self, *, device: bool = False, host: bool = False) -> Hardware:
        """The same with memory without end, of the device or of the host."""
        return replace(
            self,
            device_bytes=_NO_END if device else self.device_bytes,
            host_bytes=_NO_END if host else self.host_bytes,
        )


def hardware_of(config: ShardingConfig, world: World) -> Hardware:
    """What this rank finds on its host, unless options say otherwise; the host of a world that is described has no end.

    Raises:
        PlanError: the catalogue does not have the device that is described.
    """
    host_share = _NO_END if world.described else memory_bytes() // world.rank_info.local_world_size
    asked_device, asked_host = (
        None if gib is None else int(gib * _GIB) for gib in (config.device_memory_gib, config.host_memory_gib)
    )
    if world.device.type == "cpu":  # there the device's memory is the host's
        return Hardware(None, bandwidths(config, None), 0, host_share if asked_device is None else asked_device)
    name, device_bytes = _described(world) if world.described else _found(world.device)
    return Hardware(
        name,
        bandwidths(config, name),
        device_bytes if asked_device is None else asked_device,
        host_share if asked_host is None else asked_host,
    )


def _found(device: torch.device) -> tuple[str, int]:
    return torch.cuda.get_device_name(device), torch.cuda.get_device_properties(device).total_memory


def _described(world: World) -> tuple[str, int]:
    known = known_device(world.device_name)
    if known is None:
        names = ", ".join(device.name for device in devices())
        raise PlanError(f"nothing is known of the device {world.device_name!r}; known are {names}")
    return world.device_name, int(known.memory_gb * _GB)


def topology(hardware: Hardware, world: World, *, device_bytes: int, host_bytes: int) -> Topology:
    """The same for torchrec's planner.

    Args:
        hardware: of every rank.
        world: the ranks.
        device_bytes: what of a device's memory tables and their exchange may take.
        host_bytes: what of a rank's share of its host's memory they may.

    Raises:
        PlanError: hosts with unlike numbers of ranks.
    """
    ranks_per_host = world.rank_info.local_world_size
    if world.size % ranks_per_host:
        raise PlanError(f"{world.size} ranks do not divide into hosts of {ranks_per_host}; start as many on every host")
    told = hardware.bandwidths
    return TopologyFactory.create_topology(
        TrainerConfig(world_size=world.size, local_world_size=ranks_per_host),
        HardwareConfig(
            hbm_cap_bytes=device_bytes if world.device.type == "cuda" else None,
            ddr_cap_bytes=host_bytes,
            intra_host_bw=told.intra_host / _TORCHREC_UNIT,
            inter_host_bw=told.inter_host / _TORCHREC_UNIT,
            hbm_mem_bw=told.device / _TORCHREC_UNIT,
            ddr_mem_bw=told.host / _TORCHREC_UNIT,
            hbm_to_ddr_mem_bw=told.host_to_device / _TORCHREC_UNIT,
        ),
        KernelConfig(compute_device=world.device.type, use_hardware_based_bandwidth=True),
    )
