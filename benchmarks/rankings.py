#!/usr/bin/env python3
"""Every model on planted data of every teacher: does it reach what its form can express, and no more?

    python benchmarks/rankings.py                                 all, two trainings at a time, a core each
    python benchmarks/rankings.py --teachers cross --models "fm|dcn" --seeds 3

A teacher's true logit multiplies 1 (linear), 2 (factorisation) or 3 (cross) features, and its AUC is the best that there
is. A model has an *order*, the most features that it multiplies by itself. Beyond that it has an MLP, which approximates
what it can, or nothing. Where the order suffices, the test AUC must be at most 0.003 below the best one. Where it does not
and there is no MLP, it must be at least 0.03 below: it is about that of the true logit without its products.

Results go to benchmarks/results/rankings.json; cells that it holds are run again only with --again.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))  # run from a checkout, where the package is not installed

RESULTS = ROOT / "benchmarks/results/rankings.json"
TEACHERS = {"linear": 1, "factorisation": 2, "cross": 3}
LARGEST_GAP, SMALLEST_MISS = 0.003, 0.03
"""Between the best AUC and that of a model whose form suffices; of one that cannot multiply enough and has no MLP."""


@dataclass(frozen=True)
class Contestant:
    """A model.

    Attributes:
        options: what ``model`` is set to.
        order: the most features that it multiplies by itself.
        has_mlp: that sees several features, and so approximates products.
        lr: of the dense parameters (Adam).
    """

    options: str
    order: int
    has_mlp: bool = True
    lr: float = 0.01


_DLRM = "kind: dlrm, embedding_dim: 8, bottom_mlp: [16, 8]"
MODELS = {
    "lr": Contestant("{kind: lr}", 1, has_mlp=False),
    "fm": Contestant("{kind: fm, embedding_dim: 8}", 2, has_mlp=False),
    "dlrm dot, no top layer": Contestant(f"{{{_DLRM}, top_mlp: [1]}}", 2, has_mlp=False),
    "dlrm dot": Contestant(f"{{{_DLRM}, top_mlp: [64, 32, 1]}}", 2),
    "dlrm dcn": Contestant(f"{{{_DLRM}, top_mlp: [64, 32, 1], interaction: {{kind: dcn, layers: 3, rank: 16}}}}", 4),
    "deepfm": Contestant("{kind: deepfm, embedding_dim: 8, deep_mlp: [64, 32]}", 2),
    "wide_deep": Contestant("{kind: wide_deep, embedding_dim: 8, deep_mlp: [64, 32]}", 1),
    # Its cross layers give x_0 times a number (arXiv:1803.05170, section 2): one product of sums, not a sum of products.
    "dcn_v1": Contestant("{kind: dcn_v1, embedding_dim: 8, cross_layers: 6, deep_mlp: [64, 32]}", 1, lr=0.005),
    "xdeepfm": Contestant("{kind: xdeepfm, embedding_dim: 8, cin: [16, 16], deep_mlp: [64, 32]}", 3),
    "finalmlp": Contestant("{kind: finalmlp, embedding_dim: 8, stream1: [64, 32], stream2: [64, 32], gates: [16]}", 1),
    # Its layer norms divide products by their size, so that it, too, approximates.
    "wukong": Contestant(
        "{kind: wukong, embedding_dim: 8, layers: 2, fm_vectors: 8, linear_vectors: 8, fm_rank: 8, fm_mlp: [64], "
        "dense_mlp: [16], top_mlp: [64, 32]}",
        1,
        lr=0.005,
    ),
}
DATA = (
    "{kind: planted, rows: [10, 10, 10, 10, 10, 10], num_dense: 2, zipf_exponent: 0.3, train_samples: 600000, "
    "validation_samples: 0, test_samples: 50000}"
)
OPTIONS = [
    *("--data", DATA, "--train.global_batch_size", "512", "--train.epochs", "1"),
    *("--optim.sparse", "{kind: rowwise_adagrad, lr: 0.1}"),
    *("--optim.schedule.decay_start_step", "200", "--optim.schedule.decay_steps", "972"),  # to the end
    *("--logging.progress", "false", "--logging.tensorboard", "false", "--checkpoint.enabled", "false"),
]


def main() -> int:
    """Run what is missing, save after each cell, print the table; the exit code is 1 if a cell is not as it must be."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", default="", metavar="REGEX")
    parser.add_argument("--teachers", default="", metavar="REGEX")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--jobs", type=int, default=2, help="trainings at a time, a core each")
    parser.add_argument("--again", action="store_true", help="also cells that the results hold")
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("options", nargs="*", help="of every run, behind --")
    given = parser.parse_args()
    kept: dict[str, Any] = json.loads(given.results.read_text()) if given.results.exists() else {"best": {}, "auc": {}}
    teachers = [name for name in TEACHERS if re.search(given.teachers, name)]
    models = [name for name in MODELS if re.search(given.models, name)]
    for teacher in teachers:
        if given.again or teacher not in kept["best"]:
            kept["best"][teacher] = best_by_order(teacher)

    def cell(job: tuple[str, str, int]) -> None:
        teacher, model, seed = job
        found = kept["auc"].setdefault(teacher, {}).setdefault(model, {})
        if given.again or str(seed) not in found:
            found[str(seed)] = train(teacher, MODELS[model], seed, given.options)
            given.results.write_text(json.dumps(kept, indent=1) + "\n")
            print(f"{teacher:14s} {model:24s} seed {seed}: {found[str(seed)]}", flush=True)

    with ThreadPoolExecutor(given.jobs) as pool:
        list(pool.map(cell, product(teachers, models, range(given.seeds))))
    lines, faults = table(kept, teachers, models)
    print("\n".join([*lines, *faults]))
    return 1 if faults else 0


def best_by_order(teacher: str) -> dict[str, float]:
    """The AUC on the test samples of the true logit, and of its parts that multiply fewer features."""
    import torch
    from sklearn.metrics import roc_auc_score

    from dlrm.config import load_config
    from dlrm.data.synthetic.planted import PlantedSource

    config = load_config(None, [f"data={DATA}", f"data.teacher={teacher}"]).data
    source = PlantedSource(config, "test")  # type: ignore[arg-type]
    index = torch.arange(source.num_samples)
    labels_B = source.read(index).labels_BT[:, 0]
    orders = range(1, TEACHERS[teacher] + 1)
    return {str(order): float(roc_auc_score(labels_B, source.true_logits(index, order)[:, 0])) for order in orders}


def train(teacher: str, model: Contestant, seed: int, options: list[str]) -> dict[str, float]:
    """Test AUC and the time that it took, of one core."""
    with tempfile.TemporaryDirectory() as folder:
        words = [
            *(sys.executable, "dlrm_main.py", "train", *OPTIONS, "--data.teacher", teacher, "--model", model.options),
            *("--optim.dense", f"{{kind: adam, lr: {model.lr}}}", "--run.seed", str(seed)),
            *("--run.dir", folder, "--run.name", "cell", *options),
        ]
        began = time.perf_counter()
        subprocess.run(
            words, cwd=ROOT, check=True, stdout=subprocess.DEVNULL, env={**os.environ, "OMP_NUM_THREADS": "1"}
        )
        summary = json.loads((Path(folder) / "cell" / "summary.json").read_text())
    return {"auc": summary["test"]["auc"], "wall_s": round(time.perf_counter() - began, 1)}


def table(kept: dict[str, Any], teachers: list[str], models: list[str]) -> tuple[list[str], list[str]]:
    """Lines of Markdown, and what is not as it must be."""
    lines = ["| teacher | model | form suffices | test AUC | below the best |", "|---|---|---|---|---|"]
    faults = []
    for teacher in teachers:
        for order, auc in kept["best"][teacher].items():
            of = "its true logit" if int(order) == TEACHERS[teacher] else f"of its products of up to {order}"
            lines.append(f"| {teacher} | {of} | | {auc:.4f} | |")
    for teacher, name in product(teachers, models):
        of_cell = kept["auc"].get(teacher, {}).get(name)
        if not of_cell:
            continue
        model, order = MODELS[name], TEACHERS[teacher]
        best = kept["best"][teacher]
        auc = statistics.mean(cell["auc"] for cell in of_cell.values())
        gap = best[str(order)] - auc
        form = "yes" if model.order >= order else "by its MLP" if model.has_mlp else "no"
        lines.append(f"| {teacher} | {name} | {form} | {auc:.4f} | {gap:.4f} |")
        if form == "yes" and gap > LARGEST_GAP:
            faults.append(f"{name} on {teacher}: {gap:.4f} below the best, though its form suffices")
        if form == "no" and gap < SMALLEST_MISS:
            faults.append(f"{name} on {teacher}: {gap:.4f} below the best, which its form cannot come near")
    return lines, faults


if __name__ == "__main__":
    sys.exit(main())
