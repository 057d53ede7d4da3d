"""Kill training runs at random moments, and see that nothing of them is lost but time.

    .venv/bin/python -m scripts.kill_runs [--kills 200] [--seed 0] [--ranks 2] [--inside-share 0.34] [--output FILE]

A small model is trained once without interruption, then again and again under launch/elastic.py while ranks are killed by
SIGKILL: one, all, or the launcher with all of them (then ``--resume auto`` goes on). For each kill: did the run go on from
the newest checkpoint that was committed when the last of the killed processes was gone? For each run: was every sample of
each epoch trained once, is the final state that of the uninterrupted run, to the bit? Moments are drawn so that the given
share of the kills cuts a save off, which is told by what it leaves behind. Exit code 1 if anything is not as it should be.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import shutil
import signal
import statistics
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from tests.support.elastic_job import small_training, train_uninterrupted
from tests.support.killed_run import SAVE_EVERY, TOO_LATE, Kill, Run
from tests.support.numbered_data import write_numbered_data

ROWS = (200_000, 100_000, 5_000, 50)
BATCH = 64
EPOCHS = 2
MOST_PROBLEMS = 10
REFERENCE_S = 600.0


def in_words(killed: Kill) -> str:
    """A line about a kill."""
    save = "cut off a save" if killed.cut else "during a save" if killed.saving else ""
    again = "" if killed.recovery_s is None else f"{killed.recovery_s:.1f} s to the next step"
    steps = f"committed {killed.committed}, went on after {killed.resumed}, {killed.lost_steps} step(s) again"
    return f"{killed.victim:18} aim {killed.aim:10} last logged {killed.during:11} {save:14} {steps} {again}"


def quantiles(values: list[float]) -> dict[str, float] | None:
    """Median, ninth decile and maximum, and of how many."""
    if not values:
        return None
    ordered = sorted(values)
    ninth = ordered[min(len(ordered) - 1, int(0.9 * len(ordered)))]
    median, largest = statistics.median(ordered), ordered[-1]
    return {"median": round(median, 2), "p90": round(ninth, 2), "max": round(largest, 2), "of": len(ordered)}


def summarise(kills: list[Kill], runs: list[Run]) -> dict[str, Any]:
    """What is reported."""
    problems = [problem for run in runs for problem in run.problems]
    by_launcher = [kill for kill in kills if kill.victim != "launcher and ranks"]
    whole = [kill for kill in kills if kill.victim == "launcher and ranks"]
    return {
        "kills": len(kills),
        "runs": len(runs),
        "by_victim": dict(Counter(kill.victim for kill in kills)),
        "by_aim": dict(Counter(kill.aim for kill in kills)),
        "by_what_rank_0_did": dict(Counter(kill.during for kill in kills)),
        "while_a_save_was_under_way": sum(kill.saving for kill in kills),
        "saves_cut_off": sum(kill.cut for kill in kills),
        "all_final_states_equal_and_all_samples_trained_once": not problems,
        "problems": problems,
        "lost_steps": quantiles([kill.lost_steps for kill in kills]),
        "steps_between_saves": SAVE_EVERY,
        "recovery_s_ranks_started_again": quantiles([k.recovery_s for k in by_launcher if k.recovery_s is not None]),
        "recovery_s_launched_again": quantiles([k.recovery_s for k in whole if k.recovery_s is not None]),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=200, help="how many in all")
    parser.add_argument("--seed", type=int, default=0, help="of moments and victims")
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--steps", type=int, default=810, help="of a run")
    parser.add_argument("--inside-share", type=float, default=0.34, help="share of kills that are to cut a save off")
    parser.add_argument(
        "--work", type=Path, help="folder for the runs; those that fail stay (default: a temporary one)"
    )
    parser.add_argument("--output", type=Path, help="JSON file for the figures")
    further = "further options of the runs that are killed, after --: -- --checkpoint.full_every 4"
    parser.add_argument("further", nargs="*", help=further)
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # through what ends the jobs
    if options.work is None:
        with tempfile.TemporaryDirectory() as folder:
            return campaign(options, Path(folder))
    options.work.mkdir(parents=True, exist_ok=True)
    return campaign(options, options.work)


def campaign(options: argparse.Namespace, work: Path) -> int:
    """Kill as often as asked for, report, and return the exit code."""
    began, per_epoch = time.monotonic(), options.steps // EPOCHS
    steps, samples = per_epoch * EPOCHS, per_epoch * BATCH - 7  # the last batch of an epoch is not full
    write_numbered_data(work / "data", samples, ROWS)
    training = small_training(work / "data", ROWS)
    training += ["--train.global_batch_size", str(BATCH), "--train.epochs", str(EPOCHS)]
    training += ["--evaluation.every_steps", "150"]
    reference = train_uninterrupted(training, ranks=options.ranks, work=work, timeout_s=REFERENCE_S)
    print(f"{time.monotonic() - began:6.0f} s  the uninterrupted run: {steps} steps", flush=True)
    runs: list[Run] = []
    kills: list[Kill] = []
    while len(kills) < options.kills:
        number = len(runs)
        draw = random.Random(f"{options.seed} {number}")
        run = Run(number, work / f"run_{number}", [*training, *options.further], EPOCHS, options.ranks, draw)
        runs.append(run)
        wants_cut = _CutsWanted(options.inside_share, kills, run.kills)
        try:
            run.go(wants_cut, options.kills - len(kills))
            run.check(reference, samples, steps)
        except Exception as error:
            run.problems.append(f"run {number}: {type(error).__name__}: {error}")
        counted = [kill for kill in run.kills if kill.aim != TOO_LATE]
        kills += counted
        for one in counted:
            print(f"  {in_words(one)}", flush=True)
        verdict = "; ".join(run.problems) or "as uninterrupted"
        print(f"{time.monotonic() - began:6.0f} s  run {number}: {len(counted)} kills, {verdict}", flush=True)
        if not run.problems:
            shutil.rmtree(run.folder)
        if sum(len(run.problems) for run in runs) > MOST_PROBLEMS:
            break
    result = {"command": command(options), "machine": machine(), **summarise(kills, runs)}
    result["seconds"] = round(time.monotonic() - began)
    for name, value in result.items():
        print(f"{name:55} {value}")
    if options.output:
        options.output.write_text(json.dumps(result, indent=1) + "\n")
    return 1 if result["problems"] else 0


def command(options: argparse.Namespace) -> str:
    """What gives such figures again, without the paths of this host."""
    named = {name: getattr(options, name) for name in ("kills", "seed", "ranks", "steps", "inside_share")}
    words = [f"--{name.replace('_', '-')} {value}" for name, value in named.items()]
    return " ".join(["python -m scripts.kill_runs", *words, *(["--", *options.further] if options.further else [])])


@dataclass(frozen=True)
class _CutsWanted:
    """Whether fewer saves have been cut off than there should be."""

    share: float
    before: list[Kill]
    of_run: list[Kill]

    def __call__(self) -> bool:
        kills = [*self.before, *self.of_run]
        return sum(kill.cut for kill in kills) < self.share * (len(kills) + 1)


def machine() -> dict[str, Any]:
    """What figures depend on."""
    processor = platform.processor() or platform.machine()
    load = [round(value, 1) for value in os.getloadavg()]  # of the last 1, 5 and 15 minutes, the jobs' own included
    return {"cores": os.cpu_count(), "processor": processor, "torch": torch.__version__, "load_average": load}


if __name__ == "__main__":
    sys.exit(main())
