"""Whether checkpoints that another commit has saved are resumed as that commit resumes them, bit by bit.

    python -m scripts.old_checkpoints 964aa34

For each case and 1 and 2 ranks the other commit trains 14 of 28 steps and saves. Then both commits go on from copies of its
run with ``--resume auto``, and every record after that is compared: losses, scores, calibration. Exit code 1 if anything
differs. It takes a few minutes.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SMALL = [
    *(
        "--data.kind",
        "random",
        "--data.train_samples",
        "330",
        "--data.test_samples",
        "100",
        "--data.rows",
        "7,50,300,40",
    ),
    *("--data.num_dense", "3", "--model.bottom_mlp", "16,8", "--model.embedding_dim", "8", "--model.top_mlp", "16,1"),
    *("--train.global_batch_size", "50", "--train.epochs", "4", "--logging.every_steps", "1"),
    *("--logging.tensorboard", "false", "--logging.progress", "false"),
]
CASES = {
    "full checkpoints": ["checkpoint.every_steps=5"],
    "delta checkpoints": ["checkpoint.every_steps=2", "checkpoint.full_every=4"],
    "delta checkpoints of 8 bits": [
        "checkpoint.every_steps=2",
        "checkpoint.full_every=4",
        "checkpoint.increment_bits=8",
    ],
    "averages, Adam, tables reset": [
        *(
            "train.average_decay=0.9",
            "optim.dense.kind=adam",
            "optim.dense.lr=0.001",
            "train.reset_tables_each_epoch=true",
        ),
        *("checkpoint.every_steps=2", "checkpoint.full_every=4"),
    ],
    "column-wise tables": ["sharding.types=column_wise", "checkpoint.every_steps=5"],
}


def run_in(root: Path, folder: Path, ranks: int, words: list[str]) -> str:
    """Train with the package of a folder; what it says on standard error where it fails."""
    script = [sys.executable, __file__, "--here", json.dumps([*words, "--run.dir", str(folder)]), str(ranks)]
    done = subprocess.run(script, cwd=root, env={**os.environ, "PYTHONPATH": str(root)}, capture_output=True, text=True)
    return "" if done.returncode == 0 else done.stderr[-2000:]


def run_here(words: list[str], ranks: int) -> None:
    """The same with the package of the working directory."""
    try:
        from tests.support.command import run_command
    except ImportError:  # of a commit where it was a part of the package
        from dlrm.testing.command import run_command

    for outcome in run_command(words, ranks, timeout_s=600):
        if outcome.exit_code:
            sys.exit(outcome.stderr)


def records(folder: Path) -> list[list[object]]:
    """Kind, step and figures of every record of the run."""
    names = ("kind", "step", "loss", "auc", "log_loss", "calibration")
    lines = (folder / "a" / "metrics.jsonl").read_text().splitlines()
    return [[entry[name] for name in names if name in entry] for entry in map(json.loads, lines)]


def compare(other: Path, ranks: int, options: list[str]) -> str:
    """What differs, in words; empty if nothing does."""
    words = ["train", *SMALL, *options, "--run.name", "a"]
    with tempfile.TemporaryDirectory() as folder:
        saved, of_other, of_this = (Path(folder, name) for name in ("saved", "other", "this"))
        if problem := run_in(other, saved, ranks, [*words, "train.max_steps=14"]):
            return problem
        for root, copy in ((other, of_other), (ROOT, of_this)):
            shutil.copytree(saved, copy)
            if problem := run_in(root, copy, ranks, [*words, "--resume", "auto"]):
                return problem
        before, now = records(of_other), records(of_this)
        assert before[-1][1] == 28
        return "" if before == now else f"{before} and {now}"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("commit")
    commit = parser.parse_args().commit
    failures = 0
    with tempfile.TemporaryDirectory() as folder:
        other = Path(folder, "other")
        git = ["git", "-C", str(ROOT), "worktree"]
        subprocess.run([*git, "add", "--quiet", "--detach", str(other), commit], check=True)
        try:
            for name, options in CASES.items():
                for ranks in (1, 2):
                    difference = compare(other, ranks, options)
                    failures += bool(difference)
                    print(f"{name}, {ranks} rank(s): {difference or 'resumed alike'}", flush=True)
        finally:
            subprocess.run([*git, "remove", "--force", str(other)], check=True)
    sys.exit(1 if failures else 0)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--here"]:  # with the package that PYTHONPATH leads to
        run_here(json.loads(sys.argv[2]), int(sys.argv[3]))
    else:
        main()
