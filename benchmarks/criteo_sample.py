#!/usr/bin/env python3
"""AUC and log loss of configs/criteo_sample.yaml on 2 ranks, over seeds.

    python benchmarks/criteo_sample.py                 five seeds, the figures of the README
    python benchmarks/criteo_sample.py --seeds 1 --require-auc 0.760 --require-log-loss 0.487

The data (the first 109,711 rows of a 0.3 % sample of Criteo Kaggle, in time order) are not part of the project: their
licence forbids it. Their place is ../shared/data/criteo_kaggle_sample.tsv.gz or what CRITEO_SAMPLE says; where there is no
such file, nothing is run and the exit code is 0.
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
SAMPLE = Path(os.environ.get("CRITEO_SAMPLE", ROOT.parent / "shared" / "data" / "criteo_kaggle_sample.tsv.gz"))
FIGURES = (("validation", "auc"), ("validation", "log_loss"), ("test", "auc"), ("test", "log_loss"))


def train(seed: int, ranks: int, options: list[str]) -> dict[str, Any]:
    """Run one training and return its summary, with the wall time of the whole command."""
    with tempfile.TemporaryDirectory() as folder:
        began = time.perf_counter()
        subprocess.run(
            [
                *(sys.executable, "launch/elastic.py", "--standalone", f"--nproc-per-node={ranks}"),
                *("dlrm_main.py", "train", "--config", "configs/criteo_sample.yaml"),
                *("--data.paths", str(SAMPLE), "--run.dir", folder),
                *("--run.seed", str(seed), "--logging.progress", "false", *options),
            ],
            cwd=ROOT,
            check=True,
            stdout=subprocess.DEVNULL,
        )  # fmt: skip
        summary = json.loads((Path(folder) / "criteo_sample" / "summary.json").read_text())
    return {**summary, "seed": seed, "wall_s": time.perf_counter() - began}


def main() -> int:
    """Train with every seed, print a line each and the mean, and compare with what is required."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--require-auc", type=float, default=0.0, help="of every seed, on the test rows")
    parser.add_argument("--require-log-loss", type=float, default=1.0, help="of every seed, on the test rows")
    parser.add_argument("--save", type=Path, help="write the figures as JSON")
    arguments, options = parser.parse_known_args()
    if not SAMPLE.exists():
        print(f"skipped: {SAMPLE} is not there (CRITEO_SAMPLE may name another place)")
        return 0
    runs = []
    for seed in range(arguments.seeds):
        runs.append(train(seed, arguments.ranks, options))
        print(line(f"seed {seed}", runs[-1]), f"{runs[-1]['wall_s']:.1f} s", flush=True)
    if len(runs) > 1:
        print(line("mean", average(runs, statistics.mean)))
        print(line("s.d.", average(runs, statistics.stdev)))
    if arguments.save:
        kept = [{k: run[k] for k in ("seed", "wall_s", "steps", "ranks", "validation", "test")} for run in runs]
        arguments.save.write_text(json.dumps(kept, indent=1) + "\n")
    missed = [
        run["seed"]
        for run in runs
        if run["test"]["auc"] < arguments.require_auc or run["test"]["log_loss"] > arguments.require_log_loss
    ]
    for seed in missed:
        print(f"seed {seed} misses test AUC {arguments.require_auc} or log loss {arguments.require_log_loss}")
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
    return f"{label:7s} {'  '.join(shown)}"


if __name__ == "__main__":
    sys.exit(main())
