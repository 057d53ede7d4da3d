"""Create .venv with pinned packages that fit this machine, or repair it; do nothing if it is as it should be.

    scripts/install.sh [--dev] [--torch 2.12] [--accelerator cpu|cuda]

Where nvidia-smi answers, torch comes from PyPI (CUDA) with fbgemm-gpu; elsewhere torch is the CPU build, with
fbgemm-gpu-cpu, and torchrec is installed without its own requirements, which insist on the CUDA build. The versions of
the three are in pyproject.toml, all others in requirements/. What was installed is noted in .venv/installed.json, last
of all: an installation that was interrupted, or whose torch, fbgemm or torchrec somebody has exchanged since, is done
again, in place where possible and from scratch otherwise. Choices made once (--torch, --accelerator) stay until others
are made or .venv is removed. DLRM_VENV names another folder than .venv.

Standard library only: this runs before anything is installed.
"""

from __future__ import annotations

import argparse
import fcntl
import hashlib
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / (os.environ.get("DLRM_VENV") or ".venv")
NOTE = VENV / "installed.json"
LOG = VENV / "install.log"
PYTHON = VENV / "bin" / "python"
CPU_INDEX = "https://download.pytorch.org/whl/cpu"
DEFAULT_TORCH = "2.13"  # the one most was run with; the newest is supported before it becomes this
MINOR = f"{sys.version_info.major}.{sys.version_info.minor}"
# Without this pip would read the user's site-packages and choices that make no sense in .venv.
ENVIRONMENT = {name: value for name, value in os.environ.items() if name not in ("PYTHONHOME", "PYTHONPATH")} | {
    "PIP_DISABLE_PIP_VERSION_CHECK": "1",
    "PIP_NO_INPUT": "1",
    "PIP_USER": "0",
    "PYTHONNOUSERSITE": "1",
}


class InstallError(Exception):
    """One line for the user."""


class BrokenVenvError(InstallError):
    """What may come from an interrupted or spoilt .venv, so that another one may mend it."""


@dataclass
class Wanted:
    """What .venv should hold; written as a note when it does.

    Attributes:
        place: of .venv, whose scripts name it; python: major.minor; accelerator: cpu or cuda.
        torch, fbgemm, torchrec: versions.
        requirements: file name -> hash of its content.
        asked: what the user chose (--torch, --accelerator); choices stay.
    """

    place: str
    python: str
    accelerator: str
    torch: str
    fbgemm: str
    torchrec: str
    requirements: dict[str, str]
    asked: dict[str, str] = field(default_factory=dict)

    def satisfied_by(self, note: dict[str, object]) -> bool:
        return {**asdict(self), "asked": note.get("asked")} == note and PYTHON.exists() and self.is_there()

    @property
    def fbgemm_build(self) -> str:
        """The package that brings fbgemm_gpu."""
        return "fbgemm-gpu" if self.accelerator == "cuda" else "fbgemm-gpu-cpu"

    def is_there(self) -> bool:
        """Whether the three packages in .venv are still these, by the names of their metadata's folders."""
        found = dict(
            folder.name.removesuffix(".dist-info").replace("_", "-").rsplit("-", 1)
            for pattern in ("torch-*", "fbgemm_gpu*", "torchrec-*")
            for folder in VENV.glob(f"lib/python*/site-packages/{pattern}.dist-info")
        )
        expected = {"torch": self.torch, self.fbgemm_build: self.fbgemm, "torchrec": self.torchrec}
        right_torch = not (self.accelerator == "cuda" and found.get("torch", "").endswith("+cpu"))
        return right_torch and {name: version.partition("+")[0] for name, version in found.items()} == expected

    def __str__(self) -> str:
        return f"Python {self.python}, torch {self.torch} for {self.accelerator}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--dev", action="store_true", help="also what tests and checks need")
    parser.add_argument("--torch", default="", help="another supported torch, e.g. 2.12")
    parser.add_argument("--accelerator", default="", choices=["", "cpu", "cuda"], help="do not ask nvidia-smi")
    parser.add_argument("--report", action="store_true", help="say so if there is nothing to do")
    options = parser.parse_args()
    try:
        with open(__file__) as lock:
            with suppress(OSError):  # a file system without locks
                fcntl.flock(lock, fcntl.LOCK_EX)
            note = read_note()
            wanted = decide(options, note)
            if not wanted.satisfied_by(note):
                install(wanted, note)
            elif options.report:
                say(f".venv is ready: {wanted}")
    except InstallError as error:
        print(f"install: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("install: interrupted; the next make goes on from here", file=sys.stderr)
        return 130
    return 0


def read_note() -> dict[str, object]:
    with suppress(OSError, ValueError):
        note = json.loads(NOTE.read_text())
        if isinstance(note, dict):
            return note
    return {}


def decide(options: argparse.Namespace, note: dict[str, object]) -> Wanted:
    earlier = note.get("asked")
    earlier = earlier if isinstance(earlier, dict) else {}
    asked = {name: getattr(options, name) or earlier.get(name, "") for name in ("torch", "accelerator")}
    triple = choose_triple(asked["torch"])
    has_dev = "dev.txt" in str(note.get("requirements"))
    names = ["runtime.txt", "dev.txt", "mlperf.txt"] if options.dev or has_dev else ["runtime.txt"]
    return Wanted(
        place=str(VENV),
        python=MINOR,
        accelerator=asked["accelerator"] or ("cuda" if nvidia_smi_answers() else "cpu"),
        torch=triple[0],
        fbgemm=triple[1],
        torchrec=triple[2],
        requirements={n: hashlib.sha256((ROOT / "requirements" / n).read_bytes()).hexdigest() for n in names},
        asked=asked,
    )


def choose_triple(asked: str) -> tuple[str, str, str]:
    """Versions of torch, fbgemm and torchrec: the default unless one is asked for."""
    sys.path.insert(0, str(ROOT))
    from dlrm.distributed.versions import supported  # standard library only

    table = {triple.torch: triple for triple in supported()}
    series = ".".join(asked.split(".")[:2]) if asked else DEFAULT_TORCH
    if series not in table:
        raise InstallError(f"torch {asked} is not supported; choose one of {', '.join(table)} (make install TORCH=...)")
    torch = asked if asked.count(".") == 2 else f"{series}.0"
    return torch, table[series].fbgemm, table[series].torchrec


def nvidia_smi_answers() -> bool:
    if shutil.which("nvidia-smi") is None:
        return False
    with suppress(OSError, subprocess.TimeoutExpired):
        answer = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, timeout=30)
        return answer.returncode == 0 and "GPU" in answer.stdout
    return False


def install(wanted: Wanted, note: dict[str, object]) -> None:
    began_s = time.monotonic()
    with suppress(OSError):
        NOTE.unlink()
    foreign = any(note.get(name) != getattr(wanted, name) for name in ("place", "python", "accelerator"))
    reused = not (note and foreign) and venv_works()
    if not reused:
        create_venv()
    try:
        fill(wanted)
    except BrokenVenvError:
        if not reused:
            raise
        say("that did not work; once more from scratch")
        create_venv()
        fill(wanted)
    NOTE.write_text(json.dumps(asdict(wanted), indent=2) + "\n")
    say(f"done in {time.monotonic() - began_s:.0f} s: {wanted}")


def venv_works() -> bool:
    if not PYTHON.exists():
        return False
    script = "import sys, pip; print('%d.%d' % sys.version_info[:2])"
    return subprocess.run([PYTHON, "-c", script], capture_output=True, text=True).stdout.strip() == MINOR


def create_venv() -> None:
    if importlib.util.find_spec("venv") is None or importlib.util.find_spec("ensurepip") is None:
        raise InstallError(
            f"this Python {MINOR} lacks the module venv or ensurepip; install it "
            f"(Debian, Ubuntu: apt install python{MINOR}-venv) or name another one with make PYTHON=/path/to/python"
        )
    if VENV.is_symlink():  # what it leads to, another checkout's perhaps, would be cleared
        raise InstallError(f"{VENV} is a link, and another environment is needed here: remove the link")
    say(f"creating .venv with Python {sys.version.split()[0]}")
    base = getattr(sys, "_base_executable", sys.executable)  # .venv's own python cannot replace itself
    made = subprocess.run([base, "-m", "venv", "--clear", VENV], capture_output=True, text=True, env=ENVIRONMENT)
    if made.returncode != 0:
        raise InstallError(f"cannot create .venv: {last_line(made.stderr + made.stdout)}")


def fill(wanted: Wanted) -> None:
    for file in wanted.requirements:
        say(f"packages of requirements/{file}")
        pip("install", "--no-deps", "-r", ROOT / "requirements" / file)
    if wanted.accelerator == "cuda":
        install_cuda_torch(wanted.torch)
    else:
        install_cpu_torch(wanted.torch)
    build = wanted.fbgemm_build
    say(f"{build} {wanted.fbgemm} and torchrec {wanted.torchrec}")
    other = "fbgemm-gpu-cpu" if wanted.accelerator == "cuda" else "fbgemm-gpu"
    if installed(other):  # both own the same files: whichever stays must be written again
        pip("uninstall", "--yes", other, build)
    pip("install", "--no-deps", f"{build}=={wanted.fbgemm}", f"torchrec=={wanted.torchrec}")
    say("checking")
    verify(wanted)


def install_cuda_torch(version: str) -> None:
    say(f"torch {version} for CUDA with its libraries (some GB)")
    constraints = [part for file in ("runtime", "cuda") for part in ("-c", ROOT / "requirements" / f"{file}.txt")]
    pip("install", f"torch=={version}", *constraints)


def install_cpu_torch(version: str) -> None:
    """The CPU build, from where this machine's pip looks or else from PyTorch's own index.

    Where neither has it (behind a mirror of PyPI), the build for CUDA, which computes on CPU as well.
    """
    say(f"torch {version} for CPU")
    requirement = f"torch=={version}+cpu"
    try:
        pip("install", "--no-deps", requirement)
        return
    except InstallError:
        say(f"not where this machine's pip looks; trying {CPU_INDEX}")
    try:
        pip("install", "--no-deps", "--index-url", CPU_INDEX, requirement)
    except InstallError:
        say("not there either; taking the build for CUDA, which computes on CPU as well")
        install_cuda_torch(version)


def verify(wanted: Wanted) -> None:
    """Nothing is missing or in conflict, and the three packages load together."""
    answer = run([PYTHON, "-m", "pip", "check"])
    lines = answer.stdout.splitlines()
    known = ["requires pandas, which"]  # of mlperf-logging: requirements/mlperf.txt
    if wanted.accelerator == "cpu":
        known.append("requires fbgemm-gpu, which")  # torchrec asks for the CUDA build by name
    complaints = [line for line in lines if "requires" in line and not any(words in line for words in known)]
    complaints += [line for line in lines if " has requirement " in line]
    if complaints:
        raise BrokenVenvError(f"packages do not fit together: {'; '.join(complaints)} (the whole log: {LOG})")
    if wanted.accelerator == "cuda" and not nvidia_smi_answers():
        say("no GPU here, so whether the packages load is not checked")  # fbgemm's CUDA build needs the driver
        return
    script = (
        "import torch, fbgemm_gpu, torchrec; from dlrm.distributed.versions import check_versions; check_versions()"
    )
    if wanted.accelerator == "cuda":
        script += "; assert torch.version.cuda, 'torch is not built for CUDA'"
    loaded = run([PYTHON, "-c", script])
    if loaded.returncode != 0:
        raise BrokenVenvError(f"the packages do not load: {last_line(loaded.stderr)} (the whole log: {LOG})")


def installed(package: str) -> bool:
    return run([PYTHON, "-m", "pip", "show", "--quiet", package]).returncode == 0


def pip(*arguments: str | Path) -> None:
    result = run([PYTHON, "-m", "pip", *arguments])
    if result.returncode != 0:
        errors = [line for line in result.stderr.splitlines() if line.startswith("ERROR")]
        kind = InstallError if "No matching distribution" in result.stderr else BrokenVenvError
        raise kind(f"{errors[-1] if errors else last_line(result.stderr)} (the whole log: {LOG})")


def run(command: list[str | Path]) -> subprocess.CompletedProcess[str]:
    """Run a command; everything it says goes to the log only."""
    result = subprocess.run(command, capture_output=True, text=True, env=ENVIRONMENT, cwd=ROOT)
    with LOG.open("a") as log:
        log.write(f"$ {' '.join(map(str, command))}\n{result.stdout}{result.stderr}\n")
    return result


def last_line(text: str) -> str:
    lines = [line for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else "no message"


def say(text: str) -> None:
    print(f"install: {text}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
