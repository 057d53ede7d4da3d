"""What a step waits for its batch, with the packed reader behind it: the share of the step, by `dlrm_main.py benchmark`.

    .venv/bin/python -m benchmarks.packed_input [--rounds 3] [--steps 30] [--require-share 0.02] [--save]

The model and its made-up packed files are those of ``benchmarks/against_reference.py``: 26 tables of 100,000 rows x 64,
one-hot, a batch of 4,096; shuffled sample by sample, as by default; on one rank of two threads and on two of one, in fp32
and in bf16, which leaves the reader less time. Each figure is that of the rank that waits longest.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.against_reference import CASES, RANKS_AND_THREADS, ROOT, options_of, write_days

RESULTS = ROOT / "benchmarks" / "results" / "packed_input.json"
CASE = CASES["criteo"]
WARMUP_STEPS = 10
MORE_STEPS = 40  # than are measured: those before and after, and those under the profiler


def main() -> None:
    """Measure and print a line a case."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--require-share", type=float, metavar="SHARE", help="exit with 1 if a median is above this")
    parser.add_argument("--save", action="store_true", help=f"write {RESULTS.relative_to(ROOT)}")
    given = parser.parse_args()
    found: dict[str, dict[str, list[float]]] = {}
    with tempfile.TemporaryDirectory(prefix="packed_input_") as folder:
        write_days(Path(folder), CASE, given.steps + MORE_STEPS)
        for ranks, threads in RANKS_AND_THREADS:
            for dense in ("fp32", "bf16"):
                results = [measured(folder, ranks, threads, given.steps, dense) for _ in range(given.rounds)]
                shares = [wait_share(result) for result in results]
                speeds = [result["samples_per_s"] for result in results]
                title = f"{ranks} rank(s) of {threads} thread(s), {dense}"
                found[title] = {"wait_share": shares, "samples_per_s": speeds}
                spread = f"{statistics.median(shares):.2%} of the step ({min(shares):.2%} to {max(shares):.2%})"
                print(f"{title}: waits {spread}; {statistics.median(speeds):,.0f} samples/s", flush=True)
    if given.save:
        RESULTS.write_text(json.dumps(found, indent=2) + "\n")
    worst = max(statistics.median(of["wait_share"]) for of in found.values())
    if given.require_share is not None and worst > given.require_share:
        sys.exit(f"a step waits {worst:.2%} of its time for data, more than {given.require_share:.2%}")


def measured(folder: str, ranks: int, threads: int, steps: int, dense: str) -> dict[str, Any]:
    """What ``benchmark.json`` says of one run."""
    output = Path(folder, "out")
    options = {**options_of(CASE, folder), "precision.dense": dense, "distributed.device": "cpu"}
    argv = [word for key, value in options.items() for word in (f"--{key}", json.dumps(value))]
    measure = ["--steps", str(steps), "--warmup_steps", str(WARMUP_STEPS), "--output", str(output)]
    launcher = ["launch/elastic.py", "--standalone", "--nproc-per-node", str(ranks)]
    command = [sys.executable, *launcher, "dlrm_main.py", "benchmark", *argv, *measure]
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"the benchmark ended with {done.returncode}:\n{done.stderr[-3000:]}")
    result: dict[str, Any] = json.loads((output / "benchmark.json").read_text())
    return result


def wait_share(result: dict[str, Any]) -> float:
    """Of the step's time, on the rank that waits longest."""
    stages = {stage["stage"]: stage for stage in result["breakdown"]["stages"]}
    return float(stages["data wait"]["slowest_ms"] / result["breakdown"]["step_ms"])


if __name__ == "__main__":
    main()
