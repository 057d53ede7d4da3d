"""One rehearsal: start its ranks over the pretended CUDA, and judge what they report."""

from __future__ import annotations

import importlib.util
import json
import os
import runpy
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from scripts.rehearse_cuda.build import CannotBuildError, build
from scripts.rehearse_cuda.report import Known, grouped_violations, launch_lines, rank_lines

ROOT = Path(__file__).resolve().parents[2]
RANK_PROGRAM = "scripts/rehearse_cuda/rank.py"
BUILT = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "dlrm-rehearsal"
# The only host is not lost if it is stopped for a while, as laptops are.
LAUNCHER = ("launch/elastic.py", "--standalone", "--local-addr=localhost", "--rdzv-conf=keep_alive_max_attempt=100000")
ONE_CASE_S = 1800
TIMED_OUT = 124  # as timeout(1) has it


@dataclass(frozen=True)
class Solo:
    """One rank of a world whose other ranks do not exist."""

    rank: int
    world_size: int
    local_world_size: int

    @classmethod
    def parse(cls, text: str) -> Solo:
        """Read ``RANK/WORLD/LOCAL``."""
        rank, world_size, local = map(int, text.split("/"))
        if not (0 <= rank < world_size and 0 < local <= world_size):
            raise ValueError(text)
        return cls(rank, world_size, local)

    def environment(self) -> dict[str, str]:
        """What a launcher would have set for this rank."""
        return {
            "REHEARSAL_SOLO": "1",
            "RANK": str(self.rank),
            "WORLD_SIZE": str(self.world_size),
            "LOCAL_RANK": str(self.rank % self.local_world_size),
            "LOCAL_WORLD_SIZE": str(self.local_world_size),
            "MASTER_ADDR": "nobody",
            "MASTER_PORT": "1",
        }


@dataclass(frozen=True)
class Device:
    """What is pretended: name, memory, and how many of them a host has."""

    name: str = "rehearsed H100"
    gib: float = 80.0
    count: int = 8


@dataclass(frozen=True)
class Asked:
    """A rehearsal that is asked for.

    Attributes:
        words: of dlrm_main.py, ``train ...``.
        ranks: real ones; solo: in their place, one of a world that does not exist.
        warmup: steps that do not count; arithmetic: whether floating point is computed.
        launches: whether to say where kernels are launched.
    """

    words: tuple[str, ...]
    ranks: int = 1
    solo: Solo | None = None
    device: Device = Device()
    warmup: int = 12
    arithmetic: bool = False
    launches: bool = False


@dataclass(frozen=True)
class Outcome:
    """Attributes: exit_code: of the job; ranks: their reports, by rank; output: what the job printed."""

    exit_code: int
    ranks: list[dict[str, Any]]
    output: str = ""


def rehearse(asked: Asked, known: Sequence[Known], *, json_file: Path | None) -> int:
    """Run one and print its report; exit code 1 if something is wrong."""
    outcome = run(asked)
    if outcome.exit_code:
        return outcome.exit_code
    for rank in outcome.ranks:
        print("\n".join([*rank_lines(rank), *launch_lines(rank)]))
    if json_file is not None:
        json_file.write_text(json.dumps(as_json(asked, outcome, known), indent=1) + "\n")
    wrong = grouped_violations(outcome.ranks, known)
    for text in wrong:
        print(f"not known {text}", file=sys.stderr)
    return 1 if wrong else 0


def as_json(asked: Asked, outcome: Outcome, known: Sequence[Known]) -> dict[str, Any]:
    """The whole report."""
    found = grouped_violations(outcome.ranks, known)
    return {"asked": asdict(asked), "exit_code": outcome.exit_code, "ranks": outcome.ranks, "violations": found}


def run(asked: Asked, *, quiet: bool = False) -> Outcome:
    """Train, and collect what the ranks report; ``quiet`` keeps what they print.

    Raises:
        CannotBuildError: the pretended CUDA cannot be compiled, or torch is not the CUDA build.
    """
    _check_torch()
    with tempfile.TemporaryDirectory(prefix="rehearsal-") as folder:
        command = [sys.executable, RANK_PROGRAM, *with_defaults(asked.words, folder)]
        if asked.ranks > 1 and asked.solo is None:
            command = [sys.executable, *LAUNCHER, "--nproc-per-node", str(asked.ranks), *command[1:]]
        try:
            done = subprocess.run(
                command,
                cwd=ROOT,
                env={**os.environ, **environment(asked, folder)},
                stdout=subprocess.PIPE if quiet else None,
                stderr=subprocess.STDOUT if quiet else None,
                text=True,
                timeout=ONE_CASE_S,
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            printed = error.stdout or b""
            return Outcome(TIMED_OUT, [], f"{printed.decode(errors='replace')}\nnot done after {ONE_CASE_S} s")
        reports = [json.loads(file.read_text()) for file in Path(folder).glob("rank*.json")]
    return Outcome(done.returncode, sorted(reports, key=lambda report: report["rank"]), done.stdout or "")


def _check_torch() -> None:
    """See that torch is the CUDA build, without the seconds that importing it takes."""
    torch = importlib.util.find_spec("torch")
    version = runpy.run_path(str(Path(str(torch.origin)).with_name("version.py"))) if torch else {"__version__": "none"}
    if version.get("cuda") is None:
        hint = "make rehearse-install prepares an environment with the CUDA build"
        raise CannotBuildError(f"torch {version['__version__']} is not built for CUDA: {hint}")


def environment(asked: Asked, folder: str) -> Mapping[str, str]:
    """What puts the pretended CUDA under a process, on top of its own environment; its report goes to ``folder``."""
    built = build(BUILT)
    preload = [str(built.preload), *filter(None, [os.environ.get("LD_PRELOAD")])]
    search = [str(built.folder), *filter(None, [os.environ.get("LD_LIBRARY_PATH")])]
    return {
        "LD_PRELOAD": ":".join(preload),
        "LD_LIBRARY_PATH": ":".join(search),
        "CUDA_VISIBLE_DEVICES": ",".join(map(str, range(asked.device.count))),  # whatever hides real ones here
        "PYTORCH_NO_CUDA_MEMORY_CACHING": "1",  # every allocation reaches the runtime, and is zero
        "REHEARSAL_DEVICES": str(asked.device.count),
        "REHEARSAL_GIB": str(asked.device.gib),
        "REHEARSAL_NAME": asked.device.name,
        "REHEARSAL_CONTENTS": str(int(asked.arithmetic)),
        "REHEARSAL_OUT": folder,
        "REHEARSAL_WARMUP": str(asked.warmup),
        "REHEARSAL_ARITHMETIC": str(int(asked.arithmetic)),
        **({"REHEARSAL_LAUNCHES": "1"} if asked.launches else {}),
        **(asked.solo.environment() if asked.solo else {}),
    }


def with_defaults(words: Sequence[str], folder: str) -> list[str]:
    """Devices must be found, or the rehearsal would be one of the CPU; and its run need not be kept."""
    found = list(words)
    for option, value in (("distributed.device", "cuda"), ("run.dir", folder)):
        if not any(word.removeprefix("--").partition("=")[0] == option for word in words):
            found += [f"--{option}", value]
    return found
