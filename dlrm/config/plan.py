"""What the command plan can be told, beside how to train."""

from __future__ import annotations

import re
from typing import Annotated, Self

from pydantic import AfterValidator, model_validator

from dlrm.config.base import NonNegativeFloat, PositiveFloat, SizesIfAny
from dlrm.config.data.paths import InputPath
from dlrm.config.root import Config
from dlrm.config.sharding import ShardingKinds

_MOST_RANKS = 16_384  # torchrec's planner takes minutes for so many


def _is_cluster(value: str) -> str:
    if value and not re.fullmatch(r"[1-9]\d{0,6}x[1-9]\d{0,4}", value):
        raise ValueError("must be HOSTSxDEVICES, such as 16x8")
    return value


class PlanConfig(Config):
    """Say what a training takes on a cluster that need not be there. Nothing is trained, and no table is made."""

    cluster: Annotated[str, AfterValidator(_is_cluster)] = ""
    """Hosts x devices of each, 16x8; the ranks that run this if left out."""
    device: str = ""
    """What each rank has: the name of a GPU in the catalogue (H100); a CPU if left out. With cluster only."""
    network: str = ""
    """What ties hosts together: a network of the catalogue (infiniband_ndr); that of the device's usual server if left
    out."""
    machine: InputPath = ""
    """Calibration of the machine (what `calibrate` wrote), for times; the catalogue's figures of the device if left out."""
    id_exponent: NonNegativeFloat | None = None
    """Take the ids of every table to follow a power law with this exponent (0: uniform; clicks: about 1), in the place
    of how they are spread in the data."""
    compare: ShardingKinds | None = None
    """Sharding types to plan for on their own, too, and compare with the plan; with a cluster the common ones if left
    out."""
    curve: SizesIfAny = ()
    """Numbers of devices to predict for, too, with the same samples of each (8,64,1024)."""
    usd_per_device_hour: PositiveFloat | None = None
    """Price; the catalogue's list price if left out."""
    output: InputPath = ""
    """Folder for plan.json; <run.dir>/<run.name>.plan if left out. What an earlier plan left in it is replaced."""

    @property
    def hosts_and_devices(self) -> tuple[int, int] | None:
        """Of the cluster; None if there is none."""
        hosts, _, devices = self.cluster.partition("x")
        return (int(hosts), int(devices)) if self.cluster else None

    @model_validator(mode="after")
    def _device_is_of_a_cluster(self) -> Self:
        if self.device and not self.cluster:
            raise ValueError("device says what a cluster is made of: set cluster, too (cluster=1x8)")
        if (self.compare or self.curve) and not self.cluster:
            raise ValueError("compare and curve are about a cluster: set it, too (cluster=1x8)")
        if self.network and self.machine:
            raise ValueError("machine has its own network: leave network out")
        if self.hosts_and_devices and self.hosts_and_devices[0] * self.hosts_and_devices[1] > _MOST_RANKS:
            raise ValueError(f"cluster has more than {_MOST_RANKS:,} devices")
        if any(count > _MOST_RANKS for count in self.curve):
            raise ValueError(f"curve goes to {_MOST_RANKS:,} devices at most")
        return self
