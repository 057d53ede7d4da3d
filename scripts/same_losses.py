"""Compare each step's loss, and the scores at the end, with those of another commit: bit by bit, on 1 and 2 ranks.

    python -m scripts.same_losses COMMIT [--ranks 1,2] [--only REGEX]

For work that must not change what is trained. A case is a command line of ``dlrm_main.py train``, so that both commits need
no more in common than their options and ``metrics.jsonl``; COMMIT is checked out beside, and runs with the packages of this
environment. The cases: the quickstart, and small models with every table optimizer under every sharding type, every
interaction, and what else goes into a step. Exit code 1 if one differs, or fails in one of the two only.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
QUIET = ["--logging.tensorboard", "false", "--logging.progress", "false", "--checkpoint.enabled", "false"]
SMALL = [
    *("--data.kind", "random", "--data.train_samples", "330", "--data.rows", "7,50,300,40", "--data.num_dense", "3"),
    *("--model.bottom_mlp", "16,8", "--model.embedding_dim", "8", "--model.top_mlp", "16,1"),
    *("--train.global_batch_size", "50", "--train.epochs", "4", "--logging.every_steps", "1"),
]
OPTIMIZERS = {
    "sgd": ["optim.sparse.kind=sgd", "optim.sparse.lr=0.1", "optim.dense.kind=sgd", "optim.dense.lr=0.05"],
    "adagrad": ["optim.sparse.kind=adagrad", "optim.sparse.lr=0.05"],
    "rowwise_adagrad": ["optim.sparse.lr=0.05", "optim.dense.lr=0.01"],
}
SHARDING = [
    *("table_wise", "row_wise", "table_row_wise", "column_wise", "table_column_wise", "grid_shard", "data_parallel"),
]
FURTHER = {
    "cat": ["model.interaction.kind=cat"],
    "dcn": ["model.interaction.kind=dcn", "model.interaction.rank=4"],
    "projection": ["model.interaction.kind=projection", "model.interaction.branch1=8", "model.interaction.branch2=8"],
    "dropout, schedule, clipping, rates": [
        *("model.dropout=0.3", "optim.schedule.warmup_steps=10", "optim.clip_norm=0.05", "optim.lr_scale.cat_1=2.0"),
        "optim.lr_scale.top_mlp=0.5",
    ],
    "adam, averaged weights, tables reset": [
        *("optim.dense.kind=adam", "optim.dense.lr=0.001", "train.average_decay=0.9"),
        "train.reset_tables_each_epoch=true",
    ],
    "adamw, mean pooling, unequal widths": [
        *(
            "optim.dense.kind=adamw",
            "optim.dense.lr=0.001",
            "model.tables.cat_1.pooling=mean",
            "model.tables.cat_2.embedding_dim=4",
        ),
        "model.interaction.kind=cat",
    ],
    "base pipeline, a mixture of types": [
        *("train.pipeline=base", "sharding.tables.cat_0.types=data_parallel", "sharding.tables.cat_2.types=row_wise"),
    ],
}


def cases() -> dict[str, list[str]]:
    """Name of a case -> its options."""
    quickstart = ["--config", "configs/quickstart.yaml", "--train.max_steps", "100", "--logging.every_steps", "1"]
    found = {"quickstart": quickstart}
    for optimizer, options in OPTIMIZERS.items():
        found |= {f"{optimizer}, {kind}": [*SMALL, *options, f"sharding.types={kind}"] for kind in SHARDING}
    return found | {name: [*SMALL, *options] for name, options in FURTHER.items()}


def run_here(wanted: dict[str, list[str]], ranks: list[int]) -> dict[str, Any]:
    """What each case comes to with the package of the working directory."""
    try:
        from tests.support.command import run_command
    except ImportError:  # of a commit where it was a part of the package
        from dlrm.testing.command import run_command

    results: dict[str, Any] = {}
    for name, options in wanted.items():
        for world_size in ranks:
            with tempfile.TemporaryDirectory() as folder:
                words = ["train", *options, *QUIET, "--run.dir", folder, "--run.name", "a"]
                outcomes = run_command(words, world_size, timeout_s=600)
                if any(outcome.exit_code for outcome in outcomes):
                    said = [outcome.stderr.strip().splitlines() for outcome in outcomes]
                    result: Any = next((lines[-1].replace(folder, "") for lines in said if lines), "failed")
                else:
                    result = [_numbers(line) for line in Path(folder, "a", "metrics.jsonl").read_text().splitlines()]
            results[f"{name}, {world_size} rank{'s' * (world_size > 1)}"] = result
            print(".", end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)
    return results


def _numbers(line: str) -> list[Any]:
    entry = json.loads(line)
    return [entry[name] for name in ("kind", "step", "loss", "auc", "log_loss", "calibration") if name in entry]


def run_in(root: Path, wanted: dict[str, list[str]], ranks: list[int]) -> dict[str, Any]:
    """The same with the package of another folder, in a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "results.json")
        script = [sys.executable, __file__, "--here", json.dumps(wanted), str(file), ",".join(map(str, ranks))]
        subprocess.run(script, cwd=root, env={**os.environ, "PYTHONPATH": str(root)}, check=True)
        results: dict[str, Any] = json.loads(file.read_text())
        return results


def compare(before: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """The names of the cases that differ; prints a line a case."""
    differing = []
    for name, expected in before.items():
        found = now[name]
        if found == expected:
            what = f"{len(expected)} records are equal" if isinstance(expected, list) else f"both: {expected}"
        else:
            differing.append(name)
            what = f"DIFFERS: {_first_difference(expected, found)}"
        print(f"{name:60s} {what}")
    return differing


def _first_difference(expected: Any, found: Any) -> str:
    if isinstance(expected, str) or isinstance(found, str):
        return f"before {str(expected)[:200]}, now {str(found)[:200]}"
    pairs = zip([*expected, None], [*found, None], strict=False)
    return next(f"before {old}, now {new}" for old, new in pairs if old != new)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("commit")
    parser.add_argument("--ranks", default="1,2")
    parser.add_argument("--only", default="", help="regular expression of the names of the cases wanted")
    options = parser.parse_args()
    ranks = [int(count) for count in options.ranks.split(",")]
    wanted = {name: words for name, words in cases().items() if re.search(options.only, name)}
    with tempfile.TemporaryDirectory() as folder:
        other = Path(folder, "other")
        git = ["git", "-C", str(ROOT), "worktree"]
        subprocess.run([*git, "add", "--quiet", "--detach", str(other), options.commit], check=True)
        try:
            before = run_in(other, wanted, ranks)
        finally:
            subprocess.run([*git, "remove", "--force", str(other)], check=True)
    differing = compare(before, run_in(ROOT, wanted, ranks))
    print(f"{len(before) - len(differing)} of {len(before)} are equal, bit by bit, to those of {options.commit}")
    sys.exit(1 if differing else 0)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--here"]:  # with the package that PYTHONPATH leads to
        Path(sys.argv[3]).write_text(
            json.dumps(run_here(json.loads(sys.argv[2]), [int(n) for n in sys.argv[4].split(",")]))
        )
    else:
        main()
