"""What the machine refuses a process, in words: memory, files, threads.

Such errors come from wherever memory is taken or a file is opened, in any library, and their tracebacks help nobody: the
cause is outside of the code. Here they become a line with what was asked and what to change. What is not surely of this
kind stays a bug: a file that is missing, for one, may be one that the code should have made.
"""

from __future__ import annotations

import errno
import os
import re
import traceback
from collections.abc import Iterator
from dataclasses import dataclass

from dlrm import memory
from dlrm.format import byte_size

_OUT_OF_HOST_MEMORY = ("can't allocate memory", "Cannot allocate memory", "std::bad_alloc", "not enough memory")
_OUT_OF_DEVICE_MEMORY = ("CUDA out of memory", "CUDA error: out of memory", "failure 2 'out of memory'")
_ASKED = (
    re.compile(r"(?:to allocate|Unable to allocate) ([\d.]+ [KMGTPE]iB)"),
    re.compile(r"(?:to allocate|of size|unable to mmap) (\d+)"),
)
_FREE = re.compile(r"of which ([\d.]+ [KMGT]?i?B) is free")

SMALLER_STEPS = memory.WHAT_TO_CHANGE[memory.ACTIVATIONS]
SMALLER_TABLES = memory.WHAT_TO_CHANGE[memory.TABLES]
HOST_TABLES = f"{SMALLER_TABLES}, or keep tables in host memory (sharding.kernels: fused_uvm_caching)"


@dataclass(frozen=True)
class _Phase:
    """A part of the work that can run out of memory.

    Attributes:
        module: of this package; its frames in a traceback tell the phase.
        during: in words; host, device: what to change where that memory is out.
    """

    module: str
    during: str
    host: str
    device: str


_COPY = "saving needs memory for a copy of each rank's part of the state: use more ranks or hosts"
_ELSEWHERE_MORE = 2 * ("free some, or run it on a host that has more",)
_PHASES = (  # the first that is in the traceback
    _Phase("checkpoint/tools", "while checkpoints were read or written", *_ELSEWHERE_MORE),
    _Phase("checkpoint", "while saving or loading a checkpoint", _COPY, _COPY),
    _Phase("train/checkpointing", "while saving a checkpoint", _COPY, _COPY),
    _Phase("train/evaluator", "while evaluating", *2 * ("lower evaluation.global_batch_size or use more ranks",)),
    _Phase("train/stepper", "in a training step", SMALLER_STEPS, f"{SMALLER_STEPS}; {HOST_TABLES}"),
    _Phase("train/engine", "while the model was built", SMALLER_TABLES, HOST_TABLES),
    _Phase("preprocess", "while preprocessing", *2 * ("lower --workers, --chunk_mib or --bucket_rows",)),
    _Phase("dataset_tools", "while data were prepared", *_ELSEWHERE_MORE),
    _Phase("data", "while reading data", *2 * ("lower train.prefetch_batches or train.global_batch_size",)),
)
_ELSEWHERE = _Phase("", "", SMALLER_STEPS, SMALLER_STEPS)

# By errno: what to do. Those in the second table are the machine's fault even where no file is named.
_OF_A_FILE = {
    errno.EACCES: "change its owner or mode, or name another place",
    errno.EPERM: "change its owner or mode, or name another place",
    errno.EISDIR: "a file is expected there: name one",
    errno.ENOTDIR: "a part of the path is a file: name another place",
    errno.ENAMETOOLONG: "name a shorter one",
    errno.ELOOP: "its symbolic links go round in circles: name another place",
    errno.ETIMEDOUT: "see whether its file system answers, then start again",
    errno.EBUSY: "another process has it: end that, or name another place",
}
_OF_THE_MACHINE = {
    errno.ENOSPC: "free some space or name another place",
    errno.EDQUOT: "free some of the quota or name another place",
    errno.EROFS: "name a place that can be written to",
    errno.EFBIG: "raise the limit of file sizes (ulimit -f) or name another file system",
    errno.EMFILE: "raise the limit of open files (ulimit -n)",
    errno.ENFILE: "end other processes or raise the host's limit of open files (fs.file-max)",
    errno.EIO: "see whether its disk or file system is well, then start again",
    errno.ESTALE: "see whether its file system is mounted, then start again",
}
_NO_TEMPORARY = "No usable temporary directory"
_TEXTS = (  # of errors that have no number
    ("shared memory(shm)", "shared memory is too small; give /dev/shm more (docker run --shm-size=8g)"),
    ("/dev/shm/", "shared memory is too small; give /dev/shm more (docker run --shm-size=8g)"),
    (
        "Duplicate GPU detected",
        "two ranks have the same GPU; start one rank a GPU, each with a LOCAL_RANK of its own (torchrun sets it)",
    ),
    ("Too many open files", f"too many open files; {_OF_THE_MACHINE[errno.EMFILE]}"),
    (
        "Unable to find interface",
        "gloo finds no network interface of this host; name one: GLOO_SOCKET_IFNAME=lo",
    ),
    (
        "can't start new thread",
        "no more threads start; raise the limit of processes (ulimit -u) or give more memory",
    ),
)


def refusal(error: BaseException) -> str:
    """One line with what the machine has refused and what to change; empty if ``error`` is something else."""
    for link in causes(error):
        line = _memory(link) or _file(link) or _text(link)
        if line:
            return line
    return ""


def may_pass(error: BaseException) -> bool:
    """Whether another start may succeed although nobody has mended anything: a file system that does not answer."""
    numbers = (errno.EIO, errno.ESTALE, errno.ETIMEDOUT)
    return any(isinstance(link, OSError) and link.errno in numbers for link in causes(error))


def _memory(error: BaseException) -> str:
    text = str(error)
    on_device = _is_torch_s(error, "OutOfMemoryError") or (
        isinstance(error, RuntimeError) and any(mark in text for mark in _OUT_OF_DEVICE_MEMORY)
    )
    on_host = isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno == errno.ENOMEM)
    on_host = on_host or (isinstance(error, RuntimeError) and any(mark in text for mark in _OUT_OF_HOST_MEMORY))
    if not (on_device or on_host):
        return ""
    phase = _phase(error)
    told = [f"out of memory on the {'GPU' if on_device else 'host'}"]
    told += [phase.during] if phase.during else []
    asked = _asked(text)
    told += [f"({asked})"] if asked else []
    change = phase.device if on_device else phase.host
    account = memory.expected()
    holding = account.told(device=on_device)
    return "; ".join(
        [" ".join(told), *([holding] if holding else []), change, *_of_largest(account, on_device, change)]
    )


def _of_largest(account: memory.MemoryAccount, on_device: bool, change: str) -> list[str]:
    """What would make the largest part smaller, unless ``change`` says so already; the process itself aside."""
    sizes = account.largest(device=on_device)
    name = next((name for name, _ in sizes if name != memory.PROCESS), None)
    if name is None or (hint := memory.WHAT_TO_CHANGE[name]) in change:
        return []
    return [f"for less of the {name}: {hint}"]


def _asked(text: str) -> str:
    """What was asked for, and what there was, as far as the library says."""
    asked = next((found[1] for pattern in _ASKED if (found := pattern.search(text))), "")
    if asked.isdigit():
        asked = byte_size(int(asked))
    free = _FREE.search(text)
    return ", ".join([*([f"{asked} asked for"] if asked else []), *([f"{free[1]} free"] if free else [])])


def _phase(error: BaseException) -> _Phase:
    package = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    frames = traceback.extract_tb(error.__traceback__)
    inside = {os.path.relpath(frame.filename, package) for frame in frames if frame.filename.startswith(package)}
    return next(
        (
            phase
            for phase in _PHASES
            if any(path.startswith((f"{phase.module}/", f"{phase.module}.")) for path in inside)
        ),
        _ELSEWHERE,
    )


def _file(error: BaseException) -> str:
    if not isinstance(error, OSError):
        return ""
    if (error.strerror or "").startswith(_NO_TEMPORARY):  # tempfile's words
        return f"{error.strerror}; name one that can be written: TMPDIR=/dev/shm, say"
    path = error.filename2 or error.filename
    if error.errno == errno.EEXIST and path is not None and not os.path.isdir(path) and _makes_folder(error):
        return f"{_named(path)}: a file is where a folder is to be; name another place"
    advice = _OF_THE_MACHINE.get(error.errno or 0) or (_OF_A_FILE.get(error.errno or 0) if path is not None else None)
    if advice is None:
        return ""
    return f"{'' if path is None else _named(path) + ': '}{error.strerror}; {advice}"


def _makes_folder(error: OSError) -> bool:
    frames = traceback.extract_tb(error.__traceback__)
    return bool(frames) and frames[-1].name in ("mkdir", "makedirs")


def _named(path: object) -> str:
    return os.fsdecode(path) if isinstance(path, str | bytes | os.PathLike) else str(path)


def _text(error: BaseException) -> str:
    if not isinstance(error, RuntimeError):
        return ""
    return next((line for mark, line in _TEXTS if mark in str(error)), "")


def _is_torch_s(error: BaseException, name: str) -> bool:
    """By name, because a command that fails may not have imported torch."""
    return any(kind.__name__ == name and kind.__module__.startswith("torch") for kind in type(error).__mro__)


def causes(error: BaseException) -> Iterator[BaseException]:
    """The error, what it was raised from, and so on."""
    link: BaseException | None = error
    while link is not None:
        yield link
        link = link.__cause__
