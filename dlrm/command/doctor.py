"""``dlrm_main.py doctor``: what is installed, what the machine offers, whether it works together, and how to mend it.

Facts are collected without importing torch, and whatever may crash or hang is tried in processes of its own
(``doctor_probes``), so that the report is printed on a broken installation as well.
"""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from dlrm.distributed import versions
from dlrm.errors import USER_ERROR_EXIT_CODE

PACKAGES = ("torch", *versions.FBGEMM_BUILDS, "torchrec", "tensordict", "torchmetrics", "torchx", "numpy")
LAUNCHER_VARIABLES = (
    "RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "GROUP_RANK", "MASTER_ADDR", "MASTER_PORT", "TORCHELASTIC_",
    "TORCHX_", "SLURM_JOB_ID", "SLURM_NODELIST", "SLURM_PROCID", "CUDA_VISIBLE_DEVICES", "OMP_NUM_THREADS",
    "GLOO_SOCKET_IFNAME", "NCCL_",
)  # fmt: skip
REINSTALL = "remove .venv and run `make install`"  # the versions are right and yet something is broken
PROBE_TIMEOUT_S = 180.0  # a busy machine takes a minute for what an idle one does in three seconds
LEAST_SHARED_MEMORY_GIB = 0.25  # Docker's default of 64 MB is too little for NCCL
LEAST_DISK_GIB = 2.0
_GIB = 2**30


@dataclass(frozen=True)
class Line:
    """One fact of the report.

    Attributes:
        topic, text: what is shown; problem: what is wrong with it and how to mend it, empty if nothing is.
    """

    topic: str
    text: str
    problem: str = ""


def run() -> int:
    """Print the report; 0 if everything works, :data:`~dlrm.errors.USER_ERROR_EXIT_CODE` otherwise."""
    gpus = nvidia_gpus()
    problems = []
    sections = (
        ("Packages", packages()),
        ("Machine", machine(gpus)),
        ("Launcher", launcher()),
        ("Trials", trials(gpus)),
    )
    for title, lines in sections:
        shown = list(lines)
        if shown:
            _print_section(title, shown)
        problems += [f"{line.topic}: {line.problem}" for line in shown if line.problem]
    _print_verdict(problems)
    return USER_ERROR_EXIT_CODE if problems else 0


def packages() -> Iterator[Line]:
    """Versions, and whether torch, fbgemm and torchrec belong together."""
    yield Line("python", f"{platform.python_version()} ({sys.executable})")
    for package in PACKAGES:
        try:
            yield Line(package, metadata.version(package))
        except metadata.PackageNotFoundError:
            if package not in versions.FBGEMM_BUILDS:
                yield Line(package, "missing", f"is not installed; {versions.HINT}")
    table = versions.supported()
    installed = versions.Installed.here()
    wrong = versions.problem(installed, table)
    supported = "; ".join(f"{row.torch} with {row.fbgemm} and {row.torchrec}" for row in table)
    yield Line("torch with fbgemm, torchrec", "do not fit" if wrong else "fit together", wrong)
    yield Line("supported", supported or "unknown: the package has no metadata")
    if installed.needs_driver:
        problem = versions.driver_problem(installed)
        yield Line(versions.DRIVER_LIBRARY, "missing" if problem else "found", problem)


def machine(gpus: Sequence[str]) -> Iterator[Line]:
    """Cores, memory, disk and devices."""
    yield Line("system", f"{platform.platform()}, host {platform.node()}")
    yield Line("cores", f"{len(os.sched_getaffinity(0))} usable of {os.cpu_count()}")
    total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    yield Line("memory", f"{total / _GIB:.1f} GiB, {free / _GIB:.1f} GiB unused")
    hint = "free some space or move the checkout (runs are written to run.dir)"
    yield _space("disk", Path.cwd(), LEAST_DISK_GIB, hint)
    if Path("/dev/shm").is_dir():
        hint = "in a container, start it with more shared memory (docker run --shm-size=8g)"
        yield _space("shared memory", Path("/dev/shm"), LEAST_SHARED_MEMORY_GIB, hint)
    yield _temporary_files()
    for index, gpu in enumerate(gpus):
        yield Line(f"GPU {index}", gpu)
    if not gpus:
        yield Line("GPU", "none (nvidia-smi does not answer); training runs on CPU")


def nvidia_gpus() -> list[str]:
    """Name, memory and driver of each NVIDIA GPU, as nvidia-smi says; none where it does not answer."""
    query = ["nvidia-smi", "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader"]
    if shutil.which("nvidia-smi") is None:
        return []
    try:
        answer = subprocess.run(query, capture_output=True, text=True, timeout=30, check=True)
    except (OSError, subprocess.SubprocessError):
        return []
    return [", driver ".join(line.rsplit(", ", 1)) for line in answer.stdout.splitlines() if line.strip()]


def launcher() -> Iterator[Line]:
    """What a launcher has set for this process, if there is one."""
    for name, value in sorted(os.environ.items()):
        if any(name == wanted or (wanted.endswith("_") and name.startswith(wanted)) for wanted in LAUNCHER_VARIABLES):
            yield Line(name, value)


def trials(gpus: Sequence[str]) -> Iterator[Line]:
    """Whether fused kernels and collectives work, on CPU and on CUDA where there are GPUs."""
    installed = versions.Installed.here()
    if installed.torch is None:
        return
    cuda = [_cuda_in_torch(len(gpus), installed)] if gpus else []
    yield from cuda
    # What cannot work is said once, with its own hint, and not by each trial that fails of it.
    try_cuda = bool(cuda) and not cuda[0].problem
    unsuited = versions.problem(installed, versions.supported()) or versions.driver_problem(installed)
    for device in ("cpu", "cuda") if try_cuda else ("cpu",):
        problem, took_s = _try([["kernels", device]])
        yield _trial(f"fused {device} kernels", problem, took_s, "see Packages" if unsuited else REINSTALL)
    yield _compiled_loops()
    for backend, ranks in (("gloo", 2), ("nccl", min(2, len(gpus)) if try_cuda else 0)):
        if not ranks:
            continue
        with _temporary_folder() as folder:
            store = str(Path(folder, "store"))
            problem, took_s = _try([["collectives", backend, store, str(rank), str(ranks)] for rank in range(ranks)])
        interface = f"if the host has several networks, name one that works: {backend.upper()}_SOCKET_IFNAME=lo"
        yield _trial(f"{backend} collectives", problem, took_s, interface, f"{ranks} process(es)")


def _cuda_in_torch(gpus: int, installed: versions.Installed) -> Line:
    """Whether torch and fbgemm are built for the GPUs that are there, see them, and run on them."""
    topic = "torch on CUDA"
    if "+cpu" in (installed.torch or ""):
        return Line(topic, "built for CPU", f"torch is built for CPU, but there are GPUs; {versions.INSTALL_CUDA}")
    script = "import torch; print(torch.version.cuda, torch.cuda.device_count())"
    answer = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    built_for, _, seen = answer.stdout.strip().partition(" ")
    text = f"built for CUDA {built_for or 'unknown'}, sees {seen or 0} of {gpus} GPU(s)"
    if built_for == "None":
        return Line(topic, text, f"torch is built for CPU, but there are GPUs; {versions.INSTALL_CUDA}")
    if seen in ("", "0"):
        hidden = os.environ.get("CUDA_VISIBLE_DEVICES")
        cause = "perhaps the driver is too old" if hidden is None else f"CUDA_VISIBLE_DEVICES ({hidden}) hides them"
        return Line(topic, text, f"torch sees no GPU; {cause}: {_last_line(answer.stderr)}")
    problem, _ = _try([["cuda"]])
    return Line(topic, text, problem)


def _compiled_loops() -> Line:
    """Whether numba's loops run, and whether their machine code is kept."""
    topic = "compiled loops"
    script = "import torch; from dlrm.data.permutation import permuted; permuted(torch.arange(2), 2, 0)"
    script += "; from dlrm.compiled import cache_place; print(*cache_place(), sep='\\n')"
    answer = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env=_environment())
    if answer.returncode:
        return Line(topic, "fail", f"{_last_line(answer.stderr)}; {REINSTALL}")
    place, writable = answer.stdout.splitlines()[-2:]
    if writable == "True":
        return Line(topic, f"work, kept in {place}")
    return Line(
        topic, f"work; each process compiles them, as {place} cannot be written (NUMBA_CACHE_DIR names another)"
    )


def _temporary_files() -> Line:
    topic = "temporary files"
    try:
        return Line(topic, tempfile.gettempdir())
    except FileNotFoundError as error:
        hint = "name one that can be written: TMPDIR=/dev/shm, say"
        return Line(topic, "no folder can be written", f"{error.strerror}; {hint}")


@contextmanager
def _temporary_folder() -> Iterator[str]:
    """In shared memory where no other can be written, so that the rest is tried all the same."""
    elsewhere = "/dev/shm" if _temporary_files().problem else None
    with tempfile.TemporaryDirectory(dir=elsewhere) as folder:
        yield folder


def _environment() -> dict[str, str]:
    """Of processes that try something."""
    path = os.pathsep.join([str(Path(__file__).resolve().parents[2]), *filter(None, [os.environ.get("PYTHONPATH")])])
    found = {**os.environ, "PYTHONPATH": path, "PYTHONWARNINGS": "ignore"}
    return {**found, "TMPDIR": "/dev/shm"} if _temporary_files().problem else found


def _try(commands: Sequence[Sequence[str]]) -> tuple[str, float]:
    """Run probes side by side; what went wrong first (empty: nothing) and the seconds it took."""
    began_s = time.monotonic()
    probes = [
        subprocess.Popen(
            [sys.executable, "-m", "dlrm.command.doctor_probes", *command],
            env=_environment(),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        for command in commands
    ]
    try:
        for probe in probes:
            left_s = max(0.0, began_s + PROBE_TIMEOUT_S - time.monotonic())
            said = probe.communicate(timeout=left_s)[1]
            if probe.returncode < 0:
                return f"killed by signal {-probe.returncode}", time.monotonic() - began_s
            if probe.returncode > 0:
                return _last_line(said), time.monotonic() - began_s
    except subprocess.TimeoutExpired:
        return f"no end after {PROBE_TIMEOUT_S:.0f} s", time.monotonic() - began_s
    finally:
        for probe in probes:
            probe.kill()
            probe.communicate()
    return "", time.monotonic() - began_s


def _trial(topic: str, problem: str, took_s: float, hint: str, what: str = "") -> Line:
    details = ", ".join(filter(None, [what, f"{took_s:.1f} s with start-up"]))
    return Line(topic, f"{'fail' if problem else 'work'} ({details})", f"{problem}; {hint}" if problem else "")


def _space(topic: str, place: Path, least_gib: float, hint: str) -> Line:
    usage = shutil.disk_usage(place)
    text = f"{usage.free / _GIB:.1f} of {usage.total / _GIB:.1f} GiB free at {place}"
    return Line(topic, text, f"less than {least_gib:g} GiB free; {hint}" if usage.free < least_gib * _GIB else "")


def _last_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else "no message"


def _print_section(title: str, lines: Sequence[Line]) -> None:
    try:
        from rich.console import Console
        from rich.table import Table
        from rich.text import Text
    except ImportError:  # the doctor speaks even where nothing is installed
        for line in lines:
            sys.stdout.write(f"{title}: {line.topic}: {line.text}\n")
        return
    table = Table(title=title, title_justify="left", title_style="bold", show_header=False)
    for line in lines:
        table.add_row(line.topic, Text(line.text, style="bold red" if line.problem else ""))
    Console().print(table)


def _print_verdict(problems: Sequence[str]) -> None:
    sys.stdout.flush()
    if not problems:
        sys.stdout.write("Everything that was tried works.\n")
        return
    sys.stdout.write(f"{len(problems)} problem(s):\n")
    for problem in problems:
        sys.stdout.write(f"  {problem}\n")
