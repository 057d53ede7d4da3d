"""The cost model's step times against measured ones: 1, 2, 4 and 8 gloo ranks, four shapes of models, three shardings.

python -m benchmarks.cost_model measure [--ranks 1 2 4 8] [--rounds 2] [--out benchmarks/results/cost_model.json]
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

PROJECT = Path(__file__).resolve().parents[1]
RESULTS = PROJECT / "benchmarks" / "results" / "cost_model.json"
COMMON = (
    "data.kind=random",
    "data.train_samples=4000000",
    "train.global_batch_size=1024",
    "checkpoint.enabled=false",
    "train.read_threads=1",
)
ROWWISE_ADAGRAD = "optim.sparse={kind: rowwise_adagrad, lr: 0.01}"
SGD = "optim.sparse={kind: sgd, lr: 0.1}"


def _rows(tables: int, rows: int) -> str:
    return f"data.rows={','.join([str(rows)] * tables)}"


SHAPES: dict[str, tuple[str, ...]] = {
    "wide MLPs": (
        _rows(8, 50_000),
        SGD,
        "data.num_dense=512",
        "model.embedding_dim=64",
        "model.bottom_mlp=512,512,64",
        "model.top_mlp=1024,1024,1024,1",
    ),
    "26 one-hot tables": (
        _rows(26, 20_000),
        ROWWISE_ADAGRAD,
        "model.embedding_dim=64",
        "model.bottom_mlp=512,256,64",
        "model.top_mlp=512,512,256,1",
    ),
    "multi-hot, cross layers": (
        _rows(13, 10_000),
        ROWWISE_ADAGRAD,
        "data.hotness=20",
        "data.ids={kind: zipf}",
        "model.embedding_dim=128",
        "model.bottom_mlp=256,128",
        "model.interaction={kind: dcn, layers: 2, rank: 64}",
        "model.top_mlp=256,128,1",
    ),
    "many small tables": (
        _rows(64, 1_000),
        SGD,
        "data.hotness=3",
        "model.embedding_dim=16",
        "model.bottom_mlp=64,16",
        "model.top_mlp=128,64,1",
    ),
}
SHARDINGS = ("table_wise", "row_wise", "data_parallel")
STEPS, PROFILED = 15, 6


def options(shape: str, sharding: str) -> list[str]:
    """Of the configuration of a point."""
    return [*COMMON, *SHAPES[shape], f"sharding.types={sharding}"]


def worker(out: Path, rounds: int) -> None:
    """Measure every shape and sharding on these ranks, by turns; rank 0 writes what it found."""
    from dlrm.config import load_options
    from dlrm.config.benchmark import BenchmarkConfig
    from dlrm.data.build import build_dataset
    from dlrm.distributed.world import joined_world
    from dlrm.scaling.benchmark.passes import Training
    from dlrm.scaling.benchmark.result import ProfiledRank, breakdown, slowest
    from dlrm.scaling.benchmark.stages import busy_by_step, by_step, in_order, launched_by_step
    from dlrm.train.engine import build_engine

    found: dict[str, dict[str, Any]] = {}
    first = load_options(BenchmarkConfig, None, list(COMMON))
    with joined_world(first.distributed) as world:
        for turn in range(rounds):
            for shape in SHAPES:
                for sharding in SHARDINGS:
                    config = load_options(BenchmarkConfig, None, options(shape, sharding))
                    dataset = build_dataset(config.data)
                    engine = build_engine(config, dataset.schema, world)
                    training = Training(config, dataset.train, engine, world)
                    training.warm_up(3)
                    step_s = slowest(world.collectives.all_gather_object(training.run(STEPS).step_s))
                    point = found.setdefault(f"{shape} / {sharding}", {"rounds_ms": []})
                    point["rounds_ms"].append([1e3 * s for s in step_s])
                    if turn == 0:
                        profiled, line = training.run_profiled(PROFILED, None, print)
                        mine = ProfiledRank(profiled.step_s, by_step(line), launched_by_step(line), busy_by_step(line))
                        ranks = world.collectives.all_gather_object(mine)
                        order = in_order(stage for rank in ranks for step in rank.stages_us for stage in step)
                        stages = breakdown(ranks, order, float(np.median(step_s))).stages
                        point["stages_ms"] = {stage.stage: stage.mean_ms for stage in stages}
                    if world.is_leader:
                        print(world.size, shape, sharding, f"{np.median(step_s) * 1e3:.1f} ms", flush=True)
                    del training, engine
        if world.is_leader:
            out.write_text(json.dumps(found))


def measure(ranks: list[int], rounds: int, out: Path) -> None:
    """Start the ranks, numbers by turns, and write the medians."""
    points: dict[str, Any] = {}
    for count in ranks:
        with tempfile.TemporaryDirectory() as folder:
            words = [sys.executable, "launch/elastic.py", "--standalone", "--nproc-per-node", str(count)]
            path = Path(folder, "found.json")
            words += ["benchmarks/cost_model.py", "worker", "--rounds", str(rounds), "--out", str(path)]
            subprocess.run(words, cwd=PROJECT, check=True, env={**os.environ, "PYTHONPATH": str(PROJECT)})
            for name, point in json.loads(path.read_text()).items():
                points[f"{count} / {name}"] = point
            out.write_text(json.dumps(points, indent=1))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("action", choices=("measure", "worker"))
    parser.add_argument("--ranks", type=int, nargs="+", default=[1, 2, 4, 8])
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--out", type=Path, default=RESULTS)
    asked = parser.parse_args()
    if asked.action == "worker":
        worker(asked.out, asked.rounds)
    else:
        measure(asked.ranks, asked.rounds, asked.out)


if __name__ == "__main__":
    main()
