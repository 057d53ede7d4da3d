"""Which device the ranks compute on: one decision for the whole job, from what every host has.

A host that decided for itself could be on CPU while the others are on CUDA, and their first collective would hang.
"""

from __future__ import annotations

import json
import socket
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, Protocol

import torch

from dlrm.distributed.versions import INSTALL_CUDA, Installed
from dlrm.errors import SetupError

Asked = Literal["auto", "cpu", "cuda"]
USE_CPU = "use --distributed.device cpu"
_NO_CODE = (
    "no kernel image",
    "invalid device function",
)  # cudaErrorNoKernelImageForDevice, cudaErrorInvalidDeviceFunction
_PROBED_KEY, _AGREED_KEY = "devices of rank {}", "devices of all hosts"


class Store(Protocol):
    """The part of torch.distributed's stores that is used here."""

    def set(self, key: str, value: str) -> Any:
        """Write a value."""

    def get(self, key: str) -> bytes:
        """Read a value; waits for it."""


@dataclass(frozen=True)
class HostDevices:
    """What a rank finds on its host.

    Attributes:
        host: its name; ranks: of the job, on this host; devices: CUDA devices that torch sees.
        fault: why CUDA cannot be used although it should be, and what to do; empty if nothing is wrong.
    """

    host: str
    ranks: int
    devices: int
    fault: str = ""

    @property
    def enough(self) -> bool:
        """Whether every rank can have a device of its own."""
        return self.devices >= self.ranks

    def __str__(self) -> str:
        return f"host {self.host} has {self.devices} CUDA device(s) for {self.ranks} rank(s)"


@dataclass(frozen=True)
class Choice:
    """What all ranks compute on; ``notice`` says what may surprise, and is empty otherwise."""

    kind: Literal["cpu", "cuda"]
    notice: str = ""


def probe_host(asked: Asked, local_rank: int, local_world_size: int) -> HostDevices:
    """Look at this host; where its devices suffice, start CUDA on the one of this rank."""
    devices = 0 if asked == "cpu" else torch.cuda.device_count()
    fault = ""
    if asked == "cuda" and torch.version.cuda is None:
        fault = f"torch {torch.__version__} is built for CPU; {INSTALL_CUDA} or {USE_CPU}"
    elif asked != "cpu" and devices >= local_world_size:
        fault = cuda_fault(local_rank)
    return HostDevices(socket.gethostname(), local_world_size, devices, fault)


def cuda_fault(index: int) -> str:
    """Why CUDA device ``index`` cannot train, and what to do; empty if it can.

    NVML counts devices even where CUDA cannot start, so a kernel of fbgemm's is run on the device. A driver that is
    newer than the kernels would compile them anew, but fbgemm's wheels hold machine code only.
    """
    if any(build.endswith("-cpu") for build in Installed.here().fbgemm):
        return f"fbgemm-gpu-cpu is installed, which has no CUDA kernels; {INSTALL_CUDA} or {USE_CPU}"
    try:
        torch.cuda.init()
    except RuntimeError as error:
        sentence = str(error).strip().splitlines()[0].partition(". ")[0]
        return (
            f"CUDA does not start: {sentence} (torch is built for CUDA {torch.version.cuda}); update the NVIDIA driver or "
            + USE_CPU
        )
    try:
        _run_kernel(torch.device("cuda", index))
    except RuntimeError as error:
        first_line = str(error).strip().splitlines()[0]
        name, (major, minor) = torch.cuda.get_device_name(index), torch.cuda.get_device_capability(index)
        who = f"CUDA device {index} ({name}, compute capability {major}.{minor})"
        if any(text in first_line for text in _NO_CODE):
            return (
                f"{who} is one that the installed torch or fbgemm-gpu holds no code for; fbgemm's wheels are for "
                f"capabilities 8.x, 9.x and 10.x: take such a GPU, build fbgemm-gpu for this one, or {USE_CPU}"
            )
        return f"{who} does not run a kernel: {first_line}; see what nvidia-smi says, or {USE_CPU}"
    return ""


def _run_kernel(device: torch.device) -> None:
    import fbgemm_gpu  # noqa: F401  # takes a while, and hosts without devices need not wait

    ones = torch.ones(2, dtype=torch.int64, device=device)
    torch.ops.fbgemm.asynchronous_complete_cumsum(ones).cpu()


def share(mine: HostDevices, *, rank: int, world_size: int, store: Store) -> list[HostDevices]:
    """What all ranks found, each finding once; the same on every rank.

    Through the store, because a process group cannot be made before its backend is known. Rank 0 reads for all, so that
    the store is asked once a rank.
    """
    store.set(_PROBED_KEY.format(rank), json.dumps(asdict(mine)))
    if rank == 0:
        found = [HostDevices(**json.loads(store.get(_PROBED_KEY.format(other)))) for other in range(world_size)]
        store.set(_AGREED_KEY, json.dumps([asdict(host) for host in dict.fromkeys(found)]))
    return [HostDevices(**host) for host in json.loads(store.get(_AGREED_KEY))]


def choose(asked: Asked, hosts: Sequence[HostDevices]) -> Choice:
    """CUDA where every rank of every host has a device of its own (or where it is asked for), else CPU.

    Raises:
        SetupError: CUDA cannot be used although there are devices for it, or although it is asked for.
    """
    if asked == "cpu":
        return Choice("cpu")
    faulty = next((host for host in hosts if host.fault), None)
    if faulty is not None:
        raise SetupError(f"host {faulty.host}: {faulty.fault}")
    short = next((host for host in hosts if not host.enough), None)
    if short is None:
        return Choice("cuda")
    if asked == "cuda":
        raise SetupError(f"distributed.device is cuda, but {short}; start fewer ranks or {USE_CPU}")
    if not any(host.devices for host in hosts):
        return Choice("cpu")
    remedy = f"start {short.devices} there to use CUDA" if short.devices else "leave it out to use CUDA"
    return Choice("cpu", f"training on CPU: {short}; {remedy}")
