"""Requests/s that an export answers within a p99 of 25 ms, beside the trainer's model asked one request at a time.

    .venv/bin/python -m benchmarks.inference_latency [--run RUN] [--rounds 5] [--require-ratio 5] [--save]

The model is the quickstart's, trained for some hundred steps unless a run is given; requests have one row; both ways have
two cores, and are measured by turns (``dlrm_main.py bench-inference``). It takes 5 to 9 minutes, of which one is training
and export. ``--save`` writes ``benchmarks/results/inference_latency.json`` and ``docs/inference_benchmark.png``: do that
on a machine on which nothing else runs.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from dlrm.inference.benchmark.result import JSON, PICTURE

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "inference_latency.json"
DOCS_PICTURE = ROOT / "docs" / "inference_benchmark.png"
BOUND_MS = 25
POINTS = ["--batch_rows", "1,32,256", "--threads", "1,2", "--models", "1,2", "--cpus", "2", "--cpu_sets", "all"]
LENGTHS = ["--bound_ms", str(BOUND_MS), "--seconds", "1", "--confirm_seconds", "3"]


def main() -> None:
    """Measure and print both ways."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, help="folder of a run to export; one is trained if left out")
    parser.add_argument("--steps", type=int, default=300, help="of the training")
    parser.add_argument("--rounds", type=int, default=5, help="each measures both ways")
    parser.add_argument("--require-ratio", type=float, metavar="RATIO", help="exit with 1 if the median is below this")
    parser.add_argument(
        "--save", action="store_true", help=f"write {RESULTS.relative_to(ROOT)} and the picture in docs/"
    )
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="inference_latency_") as name:
        folder = Path(name)
        run = given.run or trained(folder, given.steps)
        export, output = folder / "quickstart", folder / "results"
        command("export", str(run), str(export))
        command(
            "bench-inference", str(export), *POINTS, *LENGTHS, "--rounds", str(given.rounds), "--output", str(output)
        )
        found = summary(json.loads((output / JSON).read_text()))
        if given.save:
            RESULTS.write_text(json.dumps(found, indent=2) + "\n")
            shutil.copy(output / PICTURE, DOCS_PICTURE)
    ratio = found["comparison"]["ratio"]
    if ratio is None:
        sys.exit(f"in no round both ways kept a p99 of {BOUND_MS} ms: something else runs on this machine")
    if given.require_ratio is not None and ratio["median"] < given.require_ratio:
        sys.exit(f"{ratio['median']:.1f} times the plain way's requests/s, less than {given.require_ratio:g}")


def trained(folder: Path, steps: int) -> Path:
    """A run of the quickstart."""
    words = ["--config", "configs/quickstart.yaml", "--run.dir", str(folder), "--train.max_steps", str(steps)]
    command("train", *words, "--logging.progress", "false", "--logging.tensorboard", "false")
    return folder / "quickstart"


def command(*words: str) -> None:
    """Run ``dlrm_main.py``, which prints what it does."""
    done = subprocess.run([sys.executable, "dlrm_main.py", *words], cwd=ROOT, check=False)
    if done.returncode:
        sys.exit(f"dlrm_main.py {words[0]} ended with {done.returncode}")


def summary(result: dict[str, Any]) -> dict[str, Any]:
    """The comparison, and each point's figures in a line."""
    comparison = result["comparison"] or {"ratio": None, "plain": [], "batched": [], "ratios": []}
    rates = {way: [one["rate_per_s"] for one in comparison[way] if one] for way in ("plain", "batched")}
    return {
        "bound_ms": result["bound_ms"],
        "environment": result["environment"],
        "comparison": {
            "point": comparison.get("point"),
            "plain_threads": comparison.get("plain_threads"),
            "requests_per_s": rates,
            "medians": {way: statistics.median(of) if of else None for way, of in rates.items()},
            "ratios": comparison["ratios"],
            "ratio": comparison["ratio"],
        },
        "points": [
            {
                **point["point"],
                "alone_ms": point["alone"]["latency"]["p50_ms"],
                "closed_requests_per_s": point["closed"]["requests_per_s"],
                "requests_per_s_within": point["bounded"]["rate_per_s"] if point["bounded"] else None,
                "p99_ms": point["bounded"]["latency"]["p99_ms"] if point["bounded"] else None,
            }
            for point in result["points"]
        ],
        "shared": result["shared"],
    }


if __name__ == "__main__":
    main()
