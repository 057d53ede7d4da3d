"""Train random small models on 1 to 4 ranks, cut in every way, and compare each with one rank and with NumPy.

    python -m scripts.fuzz_sharding [--models 500] [--first-seed 0] [--output FILE]

Each seed is a model (:mod:`tests.support.random_models`): tables of few rows, so that ranks are often without a row of some
or of all of them. Its 20 losses are compared with those of one rank that holds every table whole, and with a float64
computation by hand (:mod:`tests.support.training_by_hand`); so are its tables and their optimizer's state afterwards.
Memory that is freed or not yet written is filled with a pattern (MALLOC_PERTURB_), so that reading beyond an array shows.
Exit code 1 if a loss is off by more than 1e-5 (relative), if a weight is off by more than 1e-4, or if a rank crashes. A
seed that fails is replayed by ``--models 1 --first-seed SEED``.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from tests.support.random_models import STEPS, RankResult, assembled, random_model, ranks_of, train_models
from tests.support.ranks import RankError, run_ranks
from tests.support.training_by_hand import train_by_hand

LOSS_TOLERANCE = 1e-5
WEIGHT_TOLERANCE = 1e-4
MODELS_A_POOL = 40  # the process groups of a model stay open as long as its processes
POOLS_AT_A_TIME = 2  # ranks wait for each other much of the time
PATIENCE_S = 3000.0


@dataclass
class Report:
    """What the models have come to.

    Attributes:
        against_one_rank, by_hand: by seed the largest relative difference of a loss.
        weights: by seed the largest difference of a weight or an optimizer's state from those by hand.
        shardings: how many tables of each type were trained on how many ranks.
        problems: in words.
    """

    against_one_rank: dict[int, float] = field(default_factory=dict)
    by_hand: dict[int, float] = field(default_factory=dict)
    weights: dict[int, float] = field(default_factory=dict)
    shardings: Counter[str] = field(default_factory=Counter)
    problems: list[str] = field(default_factory=list)

    def add(self, seed: int, results: list[RankResult], whole: RankResult) -> None:
        """Compare the model of a seed, trained by ranks, with one rank and with NumPy."""
        losses, tensors = train_by_hand(random_model(seed))
        self.against_one_rank[seed] = largest_difference(results[0].losses, whole.losses)
        self.by_hand[seed] = largest_difference(results[0].losses, losses)
        self.shardings.update(f"{kind} on {len(results)}" for kind in results[0].sharding)
        try:
            found = assembled(results)
            self.weights[seed] = max(float(np.abs(found[name] - tensor).max()) for name, tensor in tensors.items())
        except (AssertionError, KeyError) as error:
            self.problems.append(f"seed {seed}: {error}")
        worst = max(self.against_one_rank[seed], self.by_hand[seed])
        if not worst <= LOSS_TOLERANCE:
            self.problems.append(f"seed {seed}: a loss is {worst:.2g} off")
        if not self.weights.get(seed, 0.0) <= WEIGHT_TOLERANCE:
            self.problems.append(f"seed {seed}: a weight is {self.weights[seed]:.2g} off")


def largest_difference(actual: list[float], expected: list[float]) -> float:
    """The largest relative difference."""
    assert len(actual) == len(expected) == STEPS
    return max(abs(a - b) / b for a, b in zip(actual, expected, strict=True))


@dataclass(frozen=True)
class Pool:
    """Models that are trained by the same processes, one after the other; fields as :func:`train_models` has them."""

    ranks: int
    ranks_per_host: int
    whole: bool
    seeds: list[int]

    def train(self) -> tuple[dict[int, list[RankResult]], list[str]]:
        """What every rank knows after training each model, and what went wrong with those that are missing there."""
        problems: list[str] = []
        remaining = list(self.seeds)
        while remaining:
            with tempfile.TemporaryDirectory() as folder:
                progress = Path(folder) / "seed"
                arguments = (self.ranks_per_host, remaining, self.whole, progress)
                try:
                    by_rank = run_ranks(train_models, self.ranks, *arguments, timeout_s=PATIENCE_S)
                except (RankError, TimeoutError) as error:
                    failed = int(progress.read_text())
                    problems.append(f"seed {failed}: {str(error).strip().splitlines()[-1]}")
                    remaining.remove(failed)  # the others are trained once more
                    continue
            print(f"{len(remaining)} models on {self.ranks} rank(s), {self.ranks_per_host} a host", flush=True)
            return {seed: list(results) for seed, *results in zip(remaining, *by_rank, strict=True)}, problems
        return {}, problems


def pools_of(seeds: list[int]) -> Iterator[Pool]:
    """Every model on one rank that holds its tables whole, and on ranks of its own."""
    by_world: dict[tuple[int, int, bool], list[int]] = {(1, 1, True): seeds}
    for seed in seeds:
        by_world.setdefault((*ranks_of(seed), False), []).append(seed)
    for world, of_world in by_world.items():
        for begin in range(0, len(of_world), MODELS_A_POOL):
            yield Pool(*world, of_world[begin : begin + MODELS_A_POOL])


def fuzz(seeds: list[int]) -> Report:
    """Train and compare the models of all seeds."""
    report = Report()
    whole: dict[int, RankResult] = {}
    cut: dict[int, list[RankResult]] = {}
    pools = list(pools_of(seeds))
    with ThreadPoolExecutor(POOLS_AT_A_TIME) as threads:
        for pool, (results, problems) in zip(pools, threads.map(Pool.train, pools), strict=True):
            report.problems += problems
            if pool.whole:
                whole.update({seed: result for seed, (result,) in results.items()})
            else:
                cut.update(results)
    for seed in sorted(whole.keys() & cut.keys()):
        report.add(seed, cut[seed], whole[seed])
    return report


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", type=int, default=500, help="how many")
    parser.add_argument("--first-seed", type=int, default=0, help="of the first; the others follow")
    parser.add_argument("--output", type=Path, help="JSON file for the figures")
    options = parser.parse_args()
    os.environ["MALLOC_PERTURB_"] = "200"  # read by the C library of the processes that are started
    logging.getLogger("torchrec").setLevel(logging.ERROR)
    seeds = list(range(options.first_seed, options.first_seed + options.models))
    started = time.monotonic()
    report = fuzz(seeds)
    result = {
        "command": f"python -m scripts.fuzz_sharding --models {options.models} --first-seed {options.first_seed}",
        "models": len(report.by_hand),
        "steps": STEPS,
        "seconds": round(time.monotonic() - started),
        "tables": dict(sorted(report.shardings.items())),
        "largest_difference_of_a_loss_from_one_rank": max(report.against_one_rank.values(), default=None),
        "largest_difference_of_a_loss_from_float64": max(report.by_hand.values(), default=None),
        "largest_difference_of_a_weight_from_float64": max(report.weights.values(), default=None),
        "problems": report.problems,
    }
    print(json.dumps(result, indent=1))
    if options.output:
        options.output.write_text(json.dumps(result, indent=1) + "\n")
    return 1 if report.problems else 0


if __name__ == "__main__":
    sys.exit(main())
