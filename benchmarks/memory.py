"""Peak memory as predicted before the run and as measured, of models and ranks that differ, each in fresh processes.

python -m benchmarks.memory [--only CASE ...] [--ranks 1 2] [--out benchmarks/results/memory.json]
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

PROJECT = Path(__file__).resolve().parents[1]
QUICKSTART = (
    "--config",
    "configs/quickstart.yaml",
    "train.max_steps=20",
    "data.validation_samples=16384",
    "data.test_samples=16384",
)


def _tables(rows: int, *options: str) -> tuple[str, ...]:
    """26 tables, one-hot, random ids, some steps and an evaluation."""
    return (
        "data.kind=random",
        f"data.rows={','.join([str(rows)] * 26)}",
        "data.train_samples=200000",
        "data.validation_samples=8192",
        "data.test_samples=8192",
        "model.bottom_mlp=512,256,64",
        "model.embedding_dim=64",
        "model.top_mlp=512,512,256,1",
        "train.max_steps=16",
        "train.global_batch_size=4096",
        *options,
    )


SGD = "optim.sparse={kind: sgd, lr: 0.1}"
CASES: dict[str, tuple[str, ...]] = {
    "quickstart": QUICKSTART,
    "quickstart, batch 16384": (*QUICKSTART, "train.global_batch_size=16384"),
    "26 x 100k x 64, SGD": _tables(100_000, SGD),
    "26 x 100k x 64, row-wise Adagrad": _tables(100_000, "optim.sparse={kind: rowwise_adagrad, lr: 0.1}"),
    "26 x 100k x 64, Adagrad, row_wise": _tables(
        100_000, "optim.sparse={kind: adagrad, lr: 0.1}", "sharding.types=row_wise"
    ),
    "26 x 100k x 64, no checkpoints": _tables(100_000, SGD, "checkpoint.enabled=false"),
    "26 x 100k x 64, averaged weights": _tables(100_000, SGD, "train.average_decay=0.99"),
    "26 x 1k x 64, SGD": _tables(1000, SGD),
    "26 x 1k x 64, data_parallel": _tables(1000, SGD, "sharding.types=data_parallel"),
    "26 x 1k x 64, batch 1024": _tables(1000, SGD, "train.global_batch_size=1024"),
    "26 x 1k x 64, batch 16384": _tables(1000, SGD, "train.global_batch_size=16384", "train.max_steps=6"),
    "26 x 1k x 64, batch 32768": _tables(1000, SGD, "train.global_batch_size=32768", "train.max_steps=6"),
    "DCN, 26 x 20k x 64": _tables(20_000, SGD, "model.interaction={kind: dcn, layers: 3, rank: 128}"),
    "DCN, 26 x 1k x 64, batch 8192": _tables(
        1000, SGD, "model.interaction={kind: dcn, layers: 3, rank: 256}", "train.global_batch_size=8192",
        "train.max_steps=8",
    ),
    "DCN, 26 x 1k x 64, batch 16384": _tables(
        1000, SGD, "model.interaction={kind: dcn, layers: 3, rank: 128}", "train.global_batch_size=16384",
        "train.max_steps=6",
    ),
    "DeepFM, 26 x 20k x 64": (*_tables(20_000, SGD)[:5], "model.kind=deepfm", "model.embedding_dim=64", SGD,
        "train.max_steps=24", "train.global_batch_size=4096"),
    "wide top MLP, Adam": _tables(
        1000, SGD, "model.top_mlp=2048,2048,1024,1", "optim.dense={kind: adam, lr: 0.001}", "train.max_steps=8"
    ),
}  # fmt: skip


@dataclass(frozen=True)
class Found:
    """GiB of the rank that took most."""

    case: str
    ranks: int
    expected_gib: float
    measured_gib: float
    parts: dict[str, float]

    @property
    def off(self) -> float:
        """How far the prediction is from what was measured, as a share of that."""
        return self.expected_gib / self.measured_gib - 1


def run(case: str, ranks: int) -> Found:
    """Train in fresh processes."""
    with tempfile.TemporaryDirectory() as folder:
        options = [*CASES[case], f"run.dir={folder}", "run.name=run", "logging.progress=false"]
        program = ["dlrm_main.py", "train", *options]
        launcher = [] if ranks == 1 else ["launch/elastic.py", "--standalone", f"--nproc-per-node={ranks}"]
        done = subprocess.run(
            [sys.executable, *launcher, *program], cwd=PROJECT, capture_output=True, text=True, env=os.environ
        )
        if done.returncode:
            raise SystemExit(f"{case} on {ranks} rank(s): {done.stdout[-2000:]}\n{done.stderr[-2000:]}")
        summary: dict[str, Any] = json.loads((Path(folder) / "run" / "summary.json").read_text())
    expected = summary["expected_memory"]
    parts = {name: round(part["host"] / 2**30, 4) for name, part in expected["parts"].items()}
    return Found(case, ranks, expected["host"] / 2**30, summary["resident_gib"], parts)


def main() -> None:
    """Run the cases and show how far off each prediction is."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="*", default=list(CASES), choices=list(CASES), metavar="CASE")
    parser.add_argument("--ranks", nargs="*", type=int, default=[1, 2])
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    found = []
    for case in arguments.only:
        for ranks in arguments.ranks:
            one = run(case, ranks)
            found.append(one)
            print(
                f"{case:36s} {ranks} rank(s)  expected {one.expected_gib:.3f}  measured {one.measured_gib:.3f} GiB  "
                f"{one.off:+.1%}",
                flush=True,
            )
    print(f"furthest off: {max((abs(one.off) for one in found), default=0):.1%} of {len(found)}")
    if arguments.out is not None:
        rows = [
            {
                "case": one.case, "ranks": one.ranks, "expected_gib": round(one.expected_gib, 4),
                "measured_gib": round(one.measured_gib, 4), "off": round(one.off, 4), "parts_gib": one.parts,
            }
            for one in found
        ]  # fmt: skip
        arguments.out.write_text(json.dumps({"cases": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
