#!/usr/bin/env python3
"""What each switch of ``precision`` does to the scores: whole runs, paired by seed with the run in float32.

    python benchmarks/precision.py --seeds 3                                        both configurations, every switch
    python benchmarks/precision.py --seeds 10 --only "dense bf16" --config configs/quickstart.yaml
    python benchmarks/precision.py --seeds 5 --only "dense bf16" --results /tmp/speed.json -- --train.max_steps 100

Runs that the results file holds are not done again, so more seeds can be added later, and an interrupted campaign goes on.
A difference is that of one seed's runs, which share samples, order and initial weights; shown are the mean over the seeds
and its standard error, and how many times as fast the runs were (median and range: of a busy machine not much is to be
learned from it). Options behind ``--`` go to every run. Criteo's sample is left out where it is not there, as in seeds.py.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))  # run from a checkout, where the package is not installed

from benchmarks.seeds import missing_file, train  # noqa: E402

CONFIGS = (ROOT / "configs/quickstart.yaml", ROOT / "configs/criteo_sample.yaml")
FP32 = "fp32"
EXCHANGE = ["--precision.exchange.forward", "fp16", "--precision.exchange.backward", "bf16"]
SWITCHES = {
    FP32: [],
    "dense bf16": ["--precision.dense", "bf16"],
    "exchange fp16 forward": EXCHANGE[:2],
    "exchange bf16 forward and backward": [*EXCHANGE[:1], "bf16", *EXCHANGE[2:]],
    "exchange fp16 forward, bf16 backward": EXCHANGE,
    "all-reduce bf16": ["--precision.all_reduce", "bf16"],
    "all-reduce fp16": ["--precision.all_reduce", "fp16"],
    "all of it": ["--precision.dense", "bf16", *EXCHANGE, "--precision.all_reduce", "bf16"],
}
FIGURES = ("auc", "log_loss")

Runs = dict[str, dict[str, dict[str, Any]]]
"""By switch and seed: test AUC and log loss, samples/s."""


def run_missing(runs: Runs, config: Path, switches: list[str], seeds: int, ranks: int, options: list[str]) -> Any:
    """Train what is not in ``runs`` yet; yields after each run, with the switches of a seed one after the other."""
    for seed in range(seeds):
        for switch in switches:
            of_switch = runs.setdefault(switch, {})
            if str(seed) in of_switch:
                continue
            summary = train(config, seed, ranks, [*options, *SWITCHES[switch]])
            test = summary["test"] or {}
            of_switch[str(seed)] = {name: test.get(name) for name in FIGURES} | {
                "samples_per_s": summary["samples_per_s"]
            }
            yield


def compare(runs: Runs, switch: str) -> dict[str, Any]:
    """Differences to float32, switch minus float32, over the seeds that both have."""
    seeds = sorted(runs[FP32].keys() & runs[switch].keys(), key=int)
    pairs = [(runs[switch][seed], runs[FP32][seed]) for seed in seeds]
    found: dict[str, Any] = {"seeds": len(pairs)}
    for name in FIGURES:
        differences = [here[name] - there[name] for here, there in pairs if here[name] is not None]
        if differences:
            error = statistics.stdev(differences) / len(differences) ** 0.5 if len(differences) > 1 else None
            found[name] = {"mean": statistics.mean(differences), "standard_error": error}
    ratios = [here["samples_per_s"] / there["samples_per_s"] for here, there in pairs]
    found["times_as_fast"] = {"median": statistics.median(ratios), "range": [min(ratios), max(ratios)]}
    return found


def line(switch: str, found: dict[str, Any]) -> str:
    """One line of the table."""
    parts = [f"{switch:38s} {found['seeds']} seeds"]
    for name in FIGURES:
        if name in found:
            error = found[name]["standard_error"]
            parts.append(f"{name} {found[name]['mean']:+.6f}" + (f" (s.e. {error:.6f})" if error is not None else ""))
    speed = found["times_as_fast"]
    parts.append(f"x{speed['median']:.2f} ({speed['range'][0]:.2f} to {speed['range'][1]:.2f})")
    return "  ".join(parts)


def main() -> None:
    """Run what is missing, save after each run, and print the table of each configuration."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", type=Path, action="append", help="both configurations if left out")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--only", action="append", choices=list(SWITCHES)[1:], help="a switch; all if left out")
    parser.add_argument("--results", type=Path, default=ROOT / "benchmarks/results/precision.json")
    parser.add_argument("options", nargs="*", help="of every run, behind --")
    arguments = parser.parse_args()
    kept: dict[str, Any] = json.loads(arguments.results.read_text()) if arguments.results.exists() else {}
    switches = [FP32, *(arguments.only or list(SWITCHES)[1:])]
    for config in arguments.config or CONFIGS:
        options = list(arguments.options)
        if "CRITEO_SAMPLE" in os.environ and config.stem == "criteo_sample":
            options += ["--data.paths", os.environ["CRITEO_SAMPLE"]]
        if (missing := missing_file(config, options)) is not None:
            print(f"{config.stem}: skipped, {missing} is not there")
            continue
        of_config = kept.setdefault(config.stem, {"ranks": arguments.ranks, "runs": {}})
        runs: Runs = of_config["runs"]
        for _ in run_missing(runs, config.resolve(), switches, arguments.seeds, arguments.ranks, options):
            there = [switch for switch in list(SWITCHES)[1:] if runs.get(switch)]
            of_config["differences"] = {switch: compare(runs, switch) for switch in there}
            arguments.results.write_text(json.dumps(kept, indent=1) + "\n")
        print(config.stem)
        for switch, found in of_config["differences"].items():
            print(f"  {line(switch, found)}", flush=True)


if __name__ == "__main__":
    main()
