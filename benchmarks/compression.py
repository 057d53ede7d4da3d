#!/usr/bin/env python3
"""What smaller tables cost: AUC and log loss against the bytes of the tables, for each technique in several sizes.

    python benchmarks/compression.py                              both data sets; 15 to 20 minutes on two quiet cores
    python benchmarks/compression.py --only planted --points "hashed 16" --results /tmp/compression.json
    python benchmarks/compression.py --picture                    only draw docs/compression.png again

Planted data: the quickstart's model on 400,000 samples whose tables have twenty times as many rows. Criteo's sample:
configs/criteo_sample.yaml; it is left out where the file is not there (CRITEO_SAMPLE names it elsewhere). Bytes are those
of the tables' weights and of the matrices that come with them. Figures are of the test samples. Every point is a run of
seed 0, and the uncompressed one is run with several seeds: a difference below their spread is none. Runs that the results
file holds are not done again.
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
from dlrm.config.data.synthetic import PLANTED_ROWS  # noqa: E402

RESULTS, PICTURE = ROOT / "benchmarks/results/compression.json", ROOT / "docs/compression.png"
FULL = "full"
LARGE = ",".join(str(rows * 20 if rows >= 100 else rows) for rows in PLANTED_ROWS)
DATA: dict[str, tuple[Path, list[str]]] = {
    "planted": (
        ROOT / "configs/quickstart.yaml",
        [
            "--data.rows",
            LARGE,
            "--data.train_samples",
            "400000",
            "--optim.schedule",
            "{decay_start_step: 156, decay_steps: 235}",
        ],
    ),
    "criteo_sample": (ROOT / "configs/criteo_sample.yaml", ["--train.average_decay", "0"]),
}


def _embedding(kind: str, **options: object) -> list[str]:
    told = "".join(f", {name}: {value}" for name, value in options.items())
    return ["--model.embedding", f"{{kind: {kind}{told}}}"]


def _narrow(dim: int, hidden: str) -> list[str]:
    return ["--model.embedding_dim", str(dim), "--model.bottom_mlp", f"{hidden},{dim}"]


POINTS: dict[str, list[str]] = {
    FULL: [],
    "narrow 8": _narrow(8, "128,64"),
    "narrow 3": _narrow(3, "128,64"),
    "fp16": ["--precision.tables", "fp16"],
    "hashed 4": _embedding("hashed", ids_per_row=4),
    "hashed 16": _embedding("hashed", ids_per_row=16),
    "hashed 64": _embedding("hashed", ids_per_row=64),
    "two hashes 16": _embedding("hashed", ids_per_row=16, functions=2),
    "two hashes 64": _embedding("hashed", ids_per_row=64, functions=2),
    "quotient, mult 4": _embedding("quotient_remainder", ids_per_row=4),
    "quotient, mult 16": _embedding("quotient_remainder", ids_per_row=16),
    "quotient, mult 64": _embedding("quotient_remainder", ids_per_row=64),
    "quotient, add 16": _embedding("quotient_remainder", ids_per_row=16, operation="add"),
    "quotient, concat 16": _embedding("quotient_remainder", ids_per_row=16, operation="concat"),
    "capped 4000": _embedding("frequency_capped", rows=4000),
    "capped 1000": _embedding("frequency_capped", rows=1000),
    "capped 250": _embedding("frequency_capped", rows=250, tail_rows=50),
    "mixed widths 0.2": _embedding("mixed_dim", temperature=0.2, powers_of_two="false"),
    "mixed widths 0.4": _embedding("mixed_dim", temperature=0.4, powers_of_two="false"),
    "mixed widths 0.6": _embedding("mixed_dim", temperature=0.6, powers_of_two="false"),
}
FIGURES = ("auc", "log_loss")
Runs = dict[str, dict[str, Any]]
"""By point and seed, ``hashed 4 seed 0``: AUC, log loss, numbers of weights, bytes of a weight of a table."""


def run_missing(runs: Runs, config: Path, options: list[str], points: list[str], seeds: int, ranks: int) -> Any:
    """Train what is not in ``runs`` yet; yields after each run."""
    for point in points:
        for seed in range(seeds if point == FULL else 1):
            key = f"{point} seed {seed}"
            if key in runs:
                continue
            summary = train(config, seed, ranks, [*options, *POINTS[point]])
            runs[key] = {name: summary["test"][name] for name in FIGURES} | {
                "table_weights": summary["table_weights"],
                "dense_weights": summary["dense_weights"],
                "weight_bytes": 2 if point == "fp16" else 4,
                "training_time_s": summary["training_time_s"],
            }
            yield key


def points_of(runs: Runs) -> dict[str, dict[str, Any]]:
    """Bytes and figures of each point; the uncompressed one is the mean over its seeds, with their standard deviation."""
    of_full = [run for key, run in runs.items() if key.startswith(f"{FULL} seed")]
    found = {}
    for point in POINTS:
        own = [run for key, run in runs.items() if key.startswith(f"{point} seed")]
        if not own:
            continue
        first = own[0]
        size = first["table_weights"] * first["weight_bytes"]
        if "mixed" in point and of_full:  # the matrices; the other layers are the same
            size += 4 * (first["dense_weights"] - of_full[0]["dense_weights"])
        found[point] = {"bytes": size, "seeds": len(own)}
        for name in FIGURES:
            values = [run[name] for run in own]
            found[point][name] = statistics.mean(values)
            if len(values) > 1:
                found[point][f"{name}_deviation"] = statistics.stdev(values)
    return found


def show(name: str, points: dict[str, dict[str, Any]]) -> None:
    """A line a point."""
    full = points[FULL]
    deviations = ", ".join(f"{figure} {full.get(f'{figure}_deviation', 0):.5f}" for figure in FIGURES)
    print(f"{name}: standard deviation over {full['seeds']} seeds, uncompressed: {deviations}")
    for point, found in points.items():
        smaller = full["bytes"] / found["bytes"]
        figures = "  ".join(f"{figure} {found[figure]:.5f} ({found[figure] - full[figure]:+.5f})" for figure in FIGURES)
        print(f"  {point:22s} {found['bytes'] / 2**20:8.2f} MiB  {smaller:6.1f} times smaller  {figures}", flush=True)


def draw(kept: dict[str, Any], path: Path) -> None:
    """AUC against bytes, a line a technique, the spread of the uncompressed one as a band."""
    import matplotlib as mpl

    mpl.use("agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, len(kept), figsize=(6.4 * len(kept), 4.6), squeeze=False)
    for ax, (name, of_data) in zip(axes[0], kept.items(), strict=True):
        points = of_data["points"]
        full = points[FULL]
        lines: dict[str, list[dict[str, Any]]] = {}
        for point, found in points.items():
            technique = point if point in (FULL, "fp16") else point.rpartition(" ")[0]
            lines.setdefault(technique, []).append(found)
        for technique, found_points in lines.items():
            ordered = sorted(found_points, key=lambda found: found["bytes"])
            sizes, scores = [p["bytes"] / 2**20 for p in ordered], [p["auc"] for p in ordered]
            ax.plot(sizes, scores, marker="o", markersize=4, label=technique)
        spread = full.get("auc_deviation", 0)
        ax.axhspan(full["auc"] - spread, full["auc"] + spread, color="0.88", zorder=0)
        ax.set(xscale="log", xlabel="tables, MiB", ylabel="test AUC", title=name)
        ax.grid(alpha=0.3)
    axes[0][-1].legend(fontsize=8)
    figure.tight_layout()
    figure.savefig(path, dpi=110)


def main() -> None:
    """Run what is missing, save after each run, and show the points of each data set."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=list(DATA), help="one data set; both if left out")
    parser.add_argument("--points", action="append", choices=list(POINTS), help="a point; all if left out")
    parser.add_argument("--seeds", type=int, default=3, help="of the uncompressed point")
    parser.add_argument("--ranks", type=int, default=1)
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--picture", action="store_true", help="draw what the results file holds, and run nothing")
    parser.add_argument("options", nargs="*", help="of every run, behind --")
    arguments = parser.parse_args()
    kept: dict[str, Any] = json.loads(arguments.results.read_text()) if arguments.results.exists() else {}
    for name, (config, of_data) in DATA.items():
        if arguments.picture or arguments.only not in (None, name):
            continue
        options = [*of_data, *arguments.options]
        if "CRITEO_SAMPLE" in os.environ and name == "criteo_sample":
            options += ["--data.paths", os.environ["CRITEO_SAMPLE"]]
        if (missing := missing_file(config, options)) is not None:
            print(f"{name}: skipped, {missing} is not there")
            continue
        found = kept.setdefault(name, {"ranks": arguments.ranks, "options": of_data, "runs": {}})
        points = list(dict.fromkeys([FULL, *(arguments.points or POINTS)]))
        for key in run_missing(found["runs"], config.resolve(), options, points, arguments.seeds, arguments.ranks):
            found["points"] = points_of(found["runs"])
            arguments.results.write_text(json.dumps(kept, indent=1) + "\n")
            print(f"{name}: {key}", flush=True)
        show(name, found["points"])
    if kept and (arguments.picture or arguments.results == RESULTS):
        draw(kept, PICTURE)


if __name__ == "__main__":
    main()
