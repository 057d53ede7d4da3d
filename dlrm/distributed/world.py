"""Who this process is among the ranks, which device it computes on, and the process group that joins them."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist
from torch.distributed.rendezvous import rendezvous

from dlrm.config.run import DistributedConfig
from dlrm.distributed import faults
from dlrm.distributed.collectives import Collectives, ProcessGroup
from dlrm.errors import SetupError


@dataclass(frozen=True)
class Place:
    """A process's place in the job, as its launcher set it.

    Attributes:
        rank, world_size: among all processes; local_rank, local_world_size: among those of this host.
    """

    rank: int = 0
    world_size: int = 1
    local_rank: int = 0
    local_world_size: int = 1

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] = os.environ) -> Place:
        """Read what torchrun and torchx set; without them this is the only process.

        Raises:
            SetupError: some of the variables are there but not all, or they contradict each other.
        """
        names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
        given = {name: environment[name] for name in names if name in environment}
        if "RANK" not in given and "WORLD_SIZE" not in given:
            return cls()
        missing = [name for name in (*names, "MASTER_ADDR", "MASTER_PORT") if name not in environment]
        if missing:
            raise SetupError(
                f"{missing[0]} is not set although RANK or WORLD_SIZE is; start ranks with torchrun or torchx"
            )
        try:
            place = cls(*(int(given[name]) for name in names))
        except ValueError:
            raise SetupError(f"RANK, WORLD_SIZE, LOCAL_RANK, LOCAL_WORLD_SIZE must be integers, are {given}") from None
        if not (0 <= place.rank < place.world_size and 0 <= place.local_rank < place.local_world_size):
            raise SetupError(f"ranks must be smaller than world sizes, are {given}")
        if place.local_rank > place.rank or place.local_world_size > place.world_size:
            raise SetupError(f"a host cannot have more ranks than the whole job, are {given}")
        return place


@dataclass(frozen=True)
class World:
    """The joined ranks, seen from one of them."""

    place: Place
    device: torch.device
    backend: str
    collectives: Collectives

    @property
    def rank(self) -> int:
        """Global rank of this process."""
        return self.place.rank

    @property
    def size(self) -> int:
        """Number of ranks."""
        return self.place.world_size

    @property
    def is_leader(self) -> bool:
        """Whether this is global rank 0, the only one that speaks to the terminal and writes the run's files."""
        return self.place.rank == 0


@contextmanager
def joined_world(config: DistributedConfig) -> Iterator[World]:
    """Join the process group for the duration of the block.

    The group is destroyed only after success: after a failure no collective may be called, not even the implicit ones of
    an orderly shutdown.

    Raises:
        SetupError: the device or backend asked for is not there, or the ranks do not find each other.
    """
    place = Place.from_environment()
    device = choose_device(config, place)
    backend = choose_backend(config, device)
    torch.set_num_threads(config.threads_per_rank or max(1, len(os.sched_getaffinity(0)) // place.local_world_size))
    if device.type == "cuda":
        torch.cuda.set_device(device)
    store = _join(place, backend, timedelta(seconds=config.timeout_s))
    yield World(place=place, device=device, backend=backend, collectives=ProcessGroup())
    with suppress(dist.DistError):  # another rank failed after its part of the work, and says so; this one's is done
        leave_together(store, place, timedelta(seconds=config.timeout_s))
    dist.destroy_process_group()


def leave_together(store: dist.Store, place: Place, timeout: timedelta) -> None:  # type: ignore[name-defined]
    """Return when every rank has come here; on rank 0, whose process may keep the store, when all others have returned.

    A rank that left before would close connections on which a slower one is still in its last collective, or, rank 0,
    take the store away that others look into.

    Raises:
        dist.DistError: a rank has left without coming here, or did not come within ``timeout``.
    """
    others = place.world_size - 1
    if not others:
        return
    if store.add("done", 1) == place.world_size:
        store.set("all done", "")
    store.wait(["all done"], timeout)
    if place.rank == 0:
        store.wait(["others left"], timeout)
    elif store.add("left", 1) == others:
        store.set("others left", "")


def choose_device(config: DistributedConfig, place: Place) -> torch.device:
    """CUDA where every rank of the host has a device of its own (or where it is asked for), else CPU.

    Raises:
        SetupError: CUDA is asked for and there are fewer devices than ranks.
    """
    devices = torch.cuda.device_count() if config.device != "cpu" else 0
    if config.device == "cuda" and devices < place.local_world_size:
        raise SetupError(
            f"distributed.device is cuda, but this host has {devices} CUDA device(s) for {place.local_world_size} rank(s); "
            "start fewer ranks or use --distributed.device cpu"
        )
    if devices >= place.local_world_size:
        return torch.device("cuda", place.local_rank)
    return torch.device("cpu")


def choose_backend(config: DistributedConfig, device: torch.device) -> str:
    """The gloo backend on CPU; on CUDA nccl, with gloo beside it for what lives in host memory.

    Raises:
        SetupError: nccl is asked for on CPU.
    """
    if config.backend == "nccl" and device.type == "cpu":
        raise SetupError("distributed.backend is nccl, which needs CUDA; use gloo (or auto) on CPU")
    wanted = config.backend if config.backend != "auto" else ("nccl" if device.type == "cuda" else "gloo")
    return "cpu:gloo,cuda:nccl" if wanted == "nccl" else "gloo"


def _join(place: Place, backend: str, timeout: timedelta) -> dist.Store:  # type: ignore[name-defined]
    """Join the process group; the store through which its ranks have found each other."""
    if place.world_size == 1:  # needs no network and no free port
        store = dist.HashStore()  # type: ignore[attr-defined]
        dist.init_process_group(backend, store=store, rank=0, world_size=1, timeout=timeout)
        return store
    try:
        store = _store_of_this_start(place, timeout)
        dist.init_process_group(backend, store=store, rank=place.rank, world_size=place.world_size, timeout=timeout)
    except (RuntimeError, ValueError) as error:  # gloo raises plain RuntimeErrors
        master = f"{os.environ.get('MASTER_ADDR')}:{os.environ.get('MASTER_PORT')}"
        raise SetupError(f"rank {place.rank} cannot join the other ranks at {master}: {faults.told(error)}") from error
    return store


def _store_of_this_start(place: Place, timeout: timedelta) -> dist.Store:  # type: ignore[name-defined]
    """The store of the launcher, or of rank 0: the part of it that earlier starts of the ranks have not written to.

    torchrun's lives on when ranks are started again, and with it the addresses of those that died.
    """
    store, _, _ = next(rendezvous("env://", place.rank, place.world_size, timeout=timeout))
    return dist.PrefixStore(f"start {os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}", store)  # type: ignore[attr-defined]
