#!/usr/bin/env python3
"""AUC and log loss of a configuration over seeds, each seed a whole run on several ranks of this host.

    python benchmarks/seeds.py configs/criteo_sample.yaml                 five seeds on two ranks, as in the README
    python benchmarks/seeds.py configs/criteo_sample.yaml --seeds 1 --require-auc 0.760 --require-log-loss 0.487
    python benchmarks/seeds.py configs/quickstart.yaml --seeds 3 --require-gap 0.01

Further options go to the run. Where the files that a configuration reads are not there, nothing is run and the exit code
is 0: Criteo's data are not part of the project, because their licence forbids it (CRITEO_SAMPLE names the sample's place,
if it is not the one in configs/criteo_sample.yaml).
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))  # run from a checkout, where the package is not installed

from dlrm.config import load_config  # noqa: E402
from dlrm.config.data import CriteoTsvData  # noqa: E402

KEPT = ("seed", "wall_s", "steps", "samples", "samples_per_s", "ranks")
FIGURES = (("validation", "auc"), ("validation", "log_loss"), ("test", "auc"), ("test", "log_loss"))


def train(config: Path, seed: int, ranks: int, options: list[str]) -> dict[str, Any]:
    """Run one training and return its summary, with the wall time of the whole command."""
    with tempfile.TemporaryDirectory() as folder:
        began = time.perf_counter()
        subprocess.run(
            [
                *(sys.executable, "launch/elastic.py", "--standalone", f"--nproc-per-node={ranks}"),
                *("dlrm_main.py", "train", "--config", str(config)),
                *("--run.dir", folder, "--run.name", "seed", "--run.seed", str(seed)),
                *("--logging.progress", "false", *options),
            ],
            cwd=ROOT,
            check=True,
            stdout=subprocess.DEVNULL,
        )
        summary = json.loads((Path(folder) / "seed" / "summary.json").read_text())
    return {**summary, "seed": seed, "wall_s": time.perf_counter() - began}


def missing_file(config: Path, options: list[str]) -> str | None:
    """The first file that the configuration reads and that is not there."""
    data = load_config(config, options).data
    paths = data.paths if isinstance(data, CriteoTsvData) else ()
    return next((path for path in paths if not (ROOT / path).exists()), None)


def main() -> int:
    """Train with every seed, print a line each and the mean, and compare with what is required."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", type=Path)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--require-auc", type=float, default=0.0, help="of every seed, on the test samples")
    parser.add_argument(
        "--require-log-loss", type=float, default=float("inf"), help="of every seed, on the test samples"
    )
    parser.add_argument("--require-gap", type=float, default=1.0, help="best reachable minus test AUC, at most")
    parser.add_argument("--save", type=Path, help="write the figures as JSON")
    arguments, options = parser.parse_known_args()
    config = arguments.config.resolve()
    if "CRITEO_SAMPLE" in os.environ and config.stem == "criteo_sample":
        options += ["--data.paths", os.environ["CRITEO_SAMPLE"]]
    if (missing := missing_file(config, options)) is not None:
        print(f"skipped: {missing} is not there")
        return 0
    runs = []
    for seed in range(arguments.seeds):
        runs.append(train(config, seed, arguments.ranks, options))
        print(line(f"seed {seed}", runs[-1]), f"{runs[-1]['wall_s']:.1f} s", flush=True)
    if len(runs) > 1:
        print(line("mean", average(runs, statistics.mean)))
        print(line("s.d.", average(runs, statistics.stdev)))
    if arguments.save:
        kept = [{k: run.get(k) for k in (*KEPT, "validation", "test", "best_reachable_auc")} for run in runs]
        arguments.save.write_text(json.dumps(kept, indent=1) + "\n")
    missed = [
        run["seed"]
        for run in runs
        if run["test"]["auc"] < arguments.require_auc
        or run["test"]["log_loss"] > arguments.require_log_loss
        or run.get("best_reachable_auc", run["test"]["auc"]) - run["test"]["auc"] > arguments.require_gap
    ]
    for seed in missed:
        print(f"seed {seed} misses what is required")
    return 1 if missed else 0


def average(runs: list[dict[str, Any]], of: Any) -> dict[str, Any]:
    """The figures of :data:`FIGURES` over runs."""
    result: dict[str, Any] = {}
    for split, name in FIGURES:
        values = [run[split][name] for run in runs if run[split]]
        result.setdefault(split, {})[name] = of(values) if values else None
    return result


def line(label: str, run: dict[str, Any]) -> str:
    """One line of the table."""
    shown = [
        f"{split} {name} {run[split][name]:.5f}"
        for split, name in FIGURES
        if run.get(split) and run[split][name] is not None
    ]
    if run.get("best_reachable_auc") is not None:
        shown.append(f"below best reachable auc {run['best_reachable_auc'] - run['test']['auc']:.5f}")
    return f"{label:7s} {'  '.join(shown)}"


if __name__ == "__main__":
    sys.exit(main())
