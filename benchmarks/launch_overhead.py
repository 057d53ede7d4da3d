"""How much later the first step is trained under a launcher than by ``dlrm_main.py`` alone, on one machine.

    .venv/bin/python -m benchmarks.launch_overhead [--rounds 5] [--slurm] [--save]

Each round starts one rank in every way, one after the other; the time is from the start of the command to the first line in
the run's metrics.jsonl, which rank 0 writes after its first step. What is compared are differences within a round.
``--slurm`` (root and Slurm's packages) adds a job of one host in a Slurm that this starts.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

from tests.support.elastic_job import ROOT
from tests.support.slurm import SlurmCluster, missing
from tests.support.slurm_job import Submitter

RESULTS = ROOT / "benchmarks" / "results" / "launch_overhead.json"
CONFIG = ["--config", "configs/quickstart.yaml"]
OPTIONS = ["--train.max_steps", "1", "--logging.every_steps", "1", "--evaluation.test", "false"]
BASE = "dlrm_main.py"
_LONGEST_S = 300.0
_POLL_S = 0.01


def main() -> int:
    """Time the ways in turn and print medians of the differences."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--slurm", action="store_true")
    parser.add_argument("--save", action="store_true", help=f"write {RESULTS.relative_to(ROOT)}")
    given = parser.parse_args()
    if given.slurm and (why := missing()):
        print(why)
        return 2
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="launch_overhead_")))
        ways = _ways(folder)
        if given.slurm:
            cluster = stack.enter_context(SlurmCluster(folder / "slurm"))
            ways["torchx run -s slurm"] = _through_slurm(Submitter(cluster, folder / "submitter"))
        seconds: dict[str, list[float]] = {way: [] for way in ways}
        for number in range(given.rounds + 1):  # the first fills caches
            for way, start in ways.items():
                took_s = start(f"run{number}-{len(seconds[way])}-{abs(hash(way)) % 1000}")
                if number:
                    seconds[way].append(round(took_s, 2))
    found = {way: _figures(taken, seconds[BASE]) for way, taken in seconds.items()}
    for way, figures in found.items():
        print(f"{way:28} first step after {figures['median_s']:5.1f} s, {figures['beyond_s']:+.1f} s", end=" ")
        print(f"({figures['beyond_least_s']:+.1f} to {figures['beyond_most_s']:+.1f})")
    if given.save:
        RESULTS.write_text(json.dumps(found, indent=1) + "\n")
    return 0


def _ways(folder: Path) -> dict[str, Callable[[str], float]]:
    bin_folder = Path(sys.executable).parent
    elastic = ["launch/elastic.py", "--standalone", "--nproc-per-node", "1", "dlrm_main.py", "train", *CONFIG]
    torchx = [
        str(bin_folder / "torchx"),
        "run",
        "-s",
        "local_cwd",
        "components/dlrm.py:train",
        "-j",
        "1",
        *CONFIG,
        "--",
    ]
    return {
        BASE: lambda name: _time(folder, name, [sys.executable, "dlrm_main.py", "train", *CONFIG]),
        "launch/elastic.py": lambda name: _time(folder, name, [sys.executable, *elastic]),
        "torchx run -s local_cwd": lambda name: _time(folder, name, torchx),
    }


def _time(folder: Path, name: str, command: list[str]) -> float:
    began_s = time.monotonic()
    place = ["--run.dir", str(folder), "--run.name", name]
    process = subprocess.Popen(
        [*command, *OPTIONS, *place], cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    took_s = _first_step(folder / name, began_s)
    if process.wait():
        raise RuntimeError(f"{' '.join(command)} failed")
    return took_s


def _through_slurm(submitter: Submitter) -> Callable[[str], float]:
    def start(name: str) -> float:
        began_s = time.monotonic()
        job = submitter.submit(name, [*CONFIG, *OPTIONS], hosts="1")
        took_s = _first_step(job.run, began_s)
        job.await_end()
        return took_s

    return start


def _first_step(run: Path, began_s: float) -> float:
    while not ((metrics := run / "metrics.jsonl").exists() and metrics.stat().st_size):
        if time.monotonic() - began_s > _LONGEST_S:
            raise TimeoutError(f"no step within {_LONGEST_S:g} s; see {run}")
        time.sleep(_POLL_S)
    return time.monotonic() - began_s


def _figures(taken: list[float], base: list[float]) -> dict[str, float]:
    beyond = [mine - other for mine, other in zip(taken, base, strict=True)]
    return {
        "median_s": round(statistics.median(taken), 2),
        "beyond_s": round(statistics.median(beyond), 2),
        "beyond_least_s": round(min(beyond), 2),
        "beyond_most_s": round(max(beyond), 2),
        "rounds": len(taken),
    }


if __name__ == "__main__":
    sys.exit(main())
