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
from dlrm.distributed import devices, faults
from dlrm.distributed.collectives import Collectives, OneProcess, ProcessGroup
from dlrm.errors import SetupError


@dataclass(frozen=True)
class RankInfo:
    """Where a process is in the job, as its launcher set it.

    Attributes:
        rank, world_size: among all processes; local_rank, local_world_size: among those of this host.
    """

    rank: int = 0
    world_size: int = 1
    local_rank: int = 0
    local_world_size: int = 1

    @property
    def cores(self) -> int:
        """A rank's share of the cores that it may use, if all ranks of its host may use the same."""
        return max(1, len(os.sched_getaffinity(0)) // self.local_world_size)

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] = os.environ) -> RankInfo:
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
            rank_info = cls(*(int(given[name]) for name in names))
        except ValueError:
            raise SetupError(f"RANK, WORLD_SIZE, LOCAL_RANK, LOCAL_WORLD_SIZE must be integers, are {given}") from None
        if not (0 <= rank_info.rank < rank_info.world_size and 0 <= rank_info.local_rank < rank_info.local_world_size):
            raise SetupError(f"ranks must be smaller than world sizes, are {given}")
        if rank_info.local_rank > rank_info.rank or rank_info.local_world_size > rank_info.world_size:
            raise SetupError(f"a host cannot have more ranks than the whole job, are {given}")
        return rank_info


@dataclass(frozen=True)
class World:
    """The joined ranks, seen from one of them.

    Attributes:
        notice: what may surprise about the device, for the terminal; empty if nothing does.
        described: whether there are no such ranks, and plans are made for them all the same; device_name: of what they
            would have, if that is not a CPU.
    """

    rank_info: RankInfo
    device: torch.device
    backend: str
    collectives: Collectives
    notice: str = ""
    described: bool = False
    device_name: str = ""

    @property
    def rank(self) -> int:
        """Global rank of this process."""
        return self.rank_info.rank

    @property
    def size(self) -> int:
        """Number of ranks."""
        return self.rank_info.world_size

    @property
    def is_leader(self) -> bool:
        """Whether this is global rank 0, the only one that speaks to the terminal and writes the run's files."""
        return self.rank_info.rank == 0


def described_world(ranks: int, ranks_per_host: int, device_name: str = "") -> World:
    """Rank 0 of a job that is not started.

    Args:
        ranks: of the job.
        ranks_per_host: of each host.
        device_name: of the GPU of each; "" for CPUs.
    """
    device = torch.device("cuda", 0) if device_name else torch.device("cpu")
    rank_info = RankInfo(0, ranks, 0, ranks_per_host)
    return World(rank_info, device, "none", OneProcess(), described=True, device_name=device_name)


@contextmanager
def joined_world(config: DistributedConfig) -> Iterator[World]:
    """Join the process group for the duration of the block.

    The group is destroyed only after success: after a failure no collective may be called, not even the implicit ones of
    an orderly shutdown.

    Raises:
        SetupError: the device or backend asked for is not there, or the ranks do not find each other.
    """
    rank_info = RankInfo.from_environment()
    timeout = timedelta(seconds=config.timeout_s)
    with _named_meeting_point(rank_info):
        store = _open_store(rank_info, timeout)
        choice = _choose_device(config, rank_info, store)
    device = torch.device("cuda", rank_info.local_rank) if choice.kind == "cuda" else torch.device("cpu")
    backend = choose_backend(config, device)
    torch.set_num_threads(config.threads_per_rank or _share_of_cores(rank_info))
    if device.type == "cuda":
        torch.cuda.set_device(device)
    with _named_meeting_point(rank_info):
        dist.init_process_group(
            backend,
            store=store,
            rank=rank_info.rank,
            world_size=rank_info.world_size,
            timeout=timeout,
            device_id=device if "nccl" in backend else None,  # NCCL connects at once, and fails here if it has to
        )
    yield World(rank_info=rank_info, device=device, backend=backend, collectives=ProcessGroup(), notice=choice.notice)
    with suppress(dist.DistError):  # another rank failed after its part of the work, and says so; this one's is done
        leave_together(store, rank_info, timeout)
    dist.destroy_process_group()


def leave_together(store: dist.Store, rank_info: RankInfo, timeout: timedelta) -> None:  # type: ignore[name-defined]
    """Return when every rank has come here; on rank 0, whose process may keep the store, when all others have returned.

    A rank that left before would close connections on which a slower one is still in its last collective, or, rank 0,
    take the store away that others look into.

    Raises:
        dist.DistError: a rank has left without coming here, or did not come within ``timeout``.
    """
    others = rank_info.world_size - 1
    if not others:
        return
    if store.add("done", 1) == rank_info.world_size:
        store.set("all done", "")
    store.wait(["all done"], timeout)
    if rank_info.rank == 0:
        store.wait(["others left"], timeout)
    elif store.add("left", 1) == others:
        store.set("others left", "")


def _share_of_cores(rank_info: RankInfo) -> int:
    """As this project's launcher has divided what the scheduler granted; else of all that the process may use.

    torchrun sets OMP_NUM_THREADS as well, to 1.
    """
    if "DLRM_LAUNCHER" in os.environ and (given := os.environ.get("OMP_NUM_THREADS", "")).isdecimal():
        return max(1, int(given))
    return rank_info.cores


def _choose_device(config: DistributedConfig, rank_info: RankInfo, store: dist.Store) -> devices.Choice:  # type: ignore[name-defined]
    if config.device == "cpu":  # nothing to look at, nothing to agree on
        return devices.Choice("cpu")
    mine = devices.probe_host(config.device, rank_info.local_rank, rank_info.local_world_size)
    hosts = devices.share(mine, rank=rank_info.rank, world_size=rank_info.world_size, store=store)
    return devices.choose(config.device, hosts)


def choose_backend(config: DistributedConfig, device: torch.device) -> str:
    """The gloo backend on CPU; on CUDA nccl, with gloo beside it for what lives in host memory.

    Raises:
        SetupError: nccl is asked for on CPU.
    """
    if config.backend == "nccl" and device.type == "cpu":
        raise SetupError("distributed.backend is nccl, which needs CUDA; use gloo (or auto) on CPU")
    wanted = config.backend if config.backend != "auto" else ("nccl" if device.type == "cuda" else "gloo")
    return "cpu:gloo,cuda:nccl" if wanted == "nccl" else "gloo"


def _open_store(rank_info: RankInfo, timeout: timedelta) -> dist.Store:  # type: ignore[name-defined]
    """Where the ranks meet before there is a process group."""
    if rank_info.world_size == 1:  # needs no network and no free port
        return dist.HashStore()  # type: ignore[attr-defined]
    return _store_of_this_start(rank_info, timeout)


@contextmanager
def _named_meeting_point(rank_info: RankInfo) -> Iterator[None]:
    """Say where the ranks were to meet if they do not."""
    try:
        yield
    except dist.DistBackendError:  # NCCL's: the ranks have met, and it says itself what they cannot do together
        raise
    except (RuntimeError, ValueError) as error:  # gloo raises plain RuntimeErrors
        master = f"{os.environ.get('MASTER_ADDR')}:{os.environ.get('MASTER_PORT')}"
        raise SetupError(
            f"rank {rank_info.rank} cannot join the other ranks at {master}: {faults.told(error)}"
        ) from error


def _store_of_this_start(rank_info: RankInfo, timeout: timedelta) -> dist.Store:  # type: ignore[name-defined]
    """The store of the launcher, or of rank 0: the part of it that earlier starts of the ranks have not written to.

    torchrun's lives on when ranks are started again, and with it the addresses of those that died.
    """
    store, _, _ = next(rendezvous("env://", rank_info.rank, rank_info.world_size, timeout=timeout))
    return dist.PrefixStore(f"start {os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}", store)  # type: ignore[attr-defined]
