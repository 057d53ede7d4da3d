"""The cost model's step times against measured ones: 1, 2, 4 and 8 gloo ranks, four shapes of models, three shardings.

python -m benchmarks.cost_model all [--ranks 1 2 4 8] [--rounds 2]

It calibrates the machine, measures the points, and compares; each of these is an action of its own, too. Points of one
number of ranks are measured by the same processes, by turns. Nothing else may run meanwhile.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from dlrm.scaling.calibrate.steps import MeasuredStep
    from dlrm.scaling.cost.calibration import Calibration

PROJECT = Path(__file__).resolve().parents[1]
RESULTS = PROJECT / "benchmarks" / "results" / "cost_model.json"
MACHINE = PROJECT / "benchmarks" / "results" / "calibration.json"
TIE = 0.05
HALVES = 20
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
STEPS = 15


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
    from dlrm.scaling.benchmark.result import slowest
    from dlrm.train.engine import build_engine

    found: dict[str, dict[str, Any]] = {}
    first = load_options(BenchmarkConfig, None, list(COMMON))
    with joined_world(first.distributed) as world:
        for _ in range(rounds):
            for shape in SHAPES:
                for sharding in SHARDINGS:
                    config = load_options(BenchmarkConfig, None, options(shape, sharding))
                    dataset = build_dataset(config.data)
                    engine = build_engine(config, dataset.schema, world)
                    training = Training(config, dataset.train, engine, world)
                    training.warm_up(3)
                    step_s = slowest(world.collectives.all_gather_object(training.run(STEPS).step_s))
                    point = found.setdefault(f"{shape} / {sharding}", {"rounds_ms": []})
                    point["rounds_ms"].append(1e3 * float(np.median(step_s)))
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
            out.write_text(json.dumps({"points": points}, indent=1) + "\n")


def calibrate(ranks: list[int], machine: Path) -> None:
    """Measure the machine on so many ranks each."""
    for count in ranks:
        words = [sys.executable, "launch/elastic.py", "--standalone", "--nproc-per-node", str(count)]
        subprocess.run([*words, "dlrm_main.py", "calibrate", str(machine)], cwd=PROJECT, check=True)


def compare(measured: Path, machine: Path) -> None:
    """Correct the model by half of the points, predict the other half; and by other parts of them."""
    from dlrm.scaling.cost.calibration import Calibration

    points = json.loads(measured.read_text())["points"]
    steps = _steps(points)
    known = replace(Calibration.read(machine), factors={})
    print(f"{len(steps)} points; before any correction: {_told(_errors(known, steps, {}))}")
    half = _halves(len(steps), 1)[0]
    folds = {f"half of the points ({number})": fold for number, fold in enumerate(_halves(len(steps), HALVES), 1)}
    for shapes in itertools.combinations(SHAPES, 2):
        folds[f"two shapes ({', '.join(shapes)})"] = [name.split(" / ")[1] in shapes for name in points]
    for ranks in (("1", "4"), ("2", "8"), ("1", "2")):
        folds[f"{' and '.join(ranks)} ranks"] = [name.split(" / ")[0] in ranks for name in points]
    for sharding in SHARDINGS:
        folds[f"all but {sharding}"] = [not name.endswith(sharding) for name in points]
    found = {name: _fold(known, steps, fold) for name, fold in folds.items()}
    for name, (fitted, held_out, *_) in found.items():
        print(f"corrected by {name}: {_told(fitted)}; held out: {_told(held_out)}")
    medians = [float(np.median(np.abs(found[name][1]))) for name in folds if name.startswith("half")]
    print(
        f"held-out halves: median error {np.median(medians):.1%} ({min(medians):.1%} to {max(medians):.1%} of {HALVES})"
    )
    _, _, predicted_s = found["half of the points (1)"]
    for index, step in enumerate(steps):
        off = predicted_s[index] / step.step_s - 1
        note = "" if half[index] else "held out"
        print(
            f"  {step.name:48} {1e3 * step.step_s:8.1f} ms, predicted {1e3 * predicted_s[index]:8.1f} {off:+6.1%} {note}"
        )
    right, wrong, ties = _order(list(points), [step.step_s for step in steps], predicted_s, half)
    print(
        f"order of two shardings: right in {right} of {right + wrong} ({right / (right + wrong):.0%}); "
        f"{ties} ties within {TIE:.0%}"
    )
    told = json.loads(measured.read_text())
    told["predicted_ms"] = {step.name: 1e3 * s for step, s in zip(steps, predicted_s, strict=True)}
    told["held_out"] = [step.name for step, fitted in zip(steps, half, strict=True) if not fitted]
    told["errors"] = {name: {"fitted": fitted, "held_out": held} for name, (fitted, held, _) in found.items()}
    told["order"] = {"right": right, "wrong": wrong, "ties": ties}
    measured.write_text(json.dumps(told, indent=1) + "\n")


def _halves(points: int, count: int) -> list[list[bool]]:
    """Random halves of the points, the same each time."""
    drawn = np.random.default_rng(0)
    chosen = [set(drawn.permutation(points)[: points // 2].tolist()) for _ in range(count)]
    return [[index in half for index in range(points)] for half in chosen]


def _steps(points: dict[str, Any]) -> list[MeasuredStep]:
    from dlrm.config import load_options
    from dlrm.config.benchmark import BenchmarkConfig
    from dlrm.data.build import build_dataset
    from dlrm.run.log import capture_logs
    from dlrm.scaling.calibrate.steps import MeasuredStep, described

    capture_logs()
    found = []
    for name, point in points.items():
        ranks, shape, sharding = name.split(" / ")
        config = load_options(BenchmarkConfig, None, options(shape, sharding))
        workload = described(config, build_dataset(config.data), int(ranks), int(ranks))
        found.append(MeasuredStep(name, workload, float(np.median(point["rounds_ms"])) / 1e3))
    return found


def _errors(known: Calibration, steps: list[MeasuredStep], factors: dict[str, float]) -> list[float]:
    from dlrm.scaling.calibrate.steps import costs

    return [cost.step_s / step.step_s - 1 for cost, step in zip(costs(known, steps, factors), steps, strict=True)]


def _fold(
    known: Calibration, steps: list[MeasuredStep], fold: list[bool]
) -> tuple[list[float], list[float], list[float]]:
    """Errors of the points that correct the model, of the others, and what is predicted of all."""
    from dlrm.scaling.calibrate.steps import fitted_factors

    factors = fitted_factors(known, [step for step, used in zip(steps, fold, strict=True) if used])
    errors = _errors(known, steps, factors)
    predicted_s = [(1 + error) * step.step_s for error, step in zip(errors, steps, strict=True)]
    used = [error for error, inside in zip(errors, fold, strict=True) if inside]
    return used, [error for error, inside in zip(errors, fold, strict=True) if not inside], predicted_s


def _told(errors: list[float]) -> str:
    sizes = np.abs(errors)
    most = f"{np.percentile(sizes, 90):.0%} at nine of ten, {sizes.max():.0%} at most"
    return f"off by {np.median(sizes):.1%} in the median, {most}"


def _order(
    names: list[str], measured_s: list[float], predicted_s: list[float], fitted: list[bool]
) -> tuple[int, int, int]:
    """Pairs of shardings of one shape on as many ranks that are predicted in the measured order, and not; ties.

    Pairs of which both points have corrected the model do not count.
    """
    right = wrong = ties = 0
    for first, second in itertools.combinations(range(len(names)), 2):
        if names[first].rsplit(" / ", 1)[0] != names[second].rsplit(" / ", 1)[0] or (fitted[first] and fitted[second]):
            continue
        if abs(measured_s[first] / measured_s[second] - 1) < TIE:
            ties += 1
        elif (measured_s[first] < measured_s[second]) == (predicted_s[first] < predicted_s[second]):
            right += 1
        else:
            wrong += 1
    return right, wrong, ties


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("action", choices=("all", "calibrate", "measure", "compare", "worker"))
    parser.add_argument("--ranks", type=int, nargs="+", default=[1, 2, 4, 8])
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--machine", type=Path, default=MACHINE)
    parser.add_argument("--out", type=Path, default=RESULTS)
    asked = parser.parse_args()
    if asked.action == "worker":
        worker(asked.out, asked.rounds)
    if asked.action in ("all", "calibrate"):
        asked.machine.unlink(missing_ok=True)
        calibrate(asked.ranks, asked.machine.absolute())
    if asked.action in ("all", "measure"):
        measure(asked.ranks, asked.rounds, asked.out)
    if asked.action in ("all", "compare"):
        compare(asked.out, asked.machine)


if __name__ == "__main__":
    main()
