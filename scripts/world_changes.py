"""Train an epoch on 2, then 4, then 1 rank(s), and see that every sample is trained once.

    python -m scripts.world_changes [--worlds 2,4,1] [--steps 600] [--work FOLDER] [--output FILE]

The launcher gets SIGTERM in the middle of the first part, upon which the run saves and ends; later parts but the last are
ended by SIGKILL of launcher and ranks. Each part goes on with ``--resume auto``. The samples that the final state was
trained on are compared with those of the data set, the final weights and scores with those of an uninterrupted run on as
many ranks as the first part has; weights differ by rounding, which training amplifies. Exit code 1 if anything is wrong.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import signal
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

from tests.support.elastic_job import (
    ElasticJob,
    await_all_gone,
    await_true,
    committed_steps,
    kill,
    saved_tensors,
    small_training,
    train_uninterrupted,
)
from tests.support.numbered_data import write_numbered_data
from tests.support.step_log import last_event, read_attempts, trained_samples

ROWS = (20_000, 10_000, 5_000, 50)
BATCH = 64
SAVE_EVERY = 40
PATIENCE_S = 600.0


def train_in_parts(training: list[str], worlds: list[int], steps: int, work: Path) -> list[dict[str, Any]]:
    """Train with one number of ranks after the other; what is true at the end of each part."""
    parts: list[dict[str, Any]] = []
    options = [*training, "--run.dir", str(work), "--run.name", "moved", "--resume", "auto"]
    options += ["--checkpoint.every_steps", str(SAVE_EVERY)]
    checkpoints, log = work / "moved" / "checkpoints", work / "log"
    for number, ranks in enumerate(worlds):
        with ElasticJob(options, ranks=ranks, log=log, output=work / "moved_output") as job:
            if number + 1 == len(worlds):
                code, ended_by = job.wait(PATIENCE_S), "itself"
            else:
                until = steps * (number + 1) // len(worlds)
                await_true(lambda until=until: reached(log) >= until, PATIENCE_S, f"step {until}")  # type: ignore[misc]
                ended_by = "SIGKILL" if number else "SIGTERM"
                code = end(job, ended_by)
        newest = max(committed_steps(checkpoints), default=0)
        parts.append(
            {"ranks": ranks, "ended_by": ended_by, "exit_code": code, "trained": reached(log), "saved": newest}
        )
    return parts


def end(job: ElasticJob, by: str) -> int:
    """End a job and return its exit code."""
    workers = job.workers()
    if by == "SIGTERM":
        job.process.send_signal(signal.SIGTERM)
    else:
        for pid in (job.process.pid, *workers):
            kill(pid)
    await_all_gone(workers, PATIENCE_S)
    return job.wait(PATIENCE_S)


def reached(log: Path) -> int:
    """The last step that was trained."""
    return max((last_event(path)[1] or 0 for path in log.glob("*.jsonl")), default=0)


def counts_of(trained: dict[int, list[int]]) -> Counter[int]:
    """How often each sample was trained."""
    return Counter(itertools.chain.from_iterable(trained.values()))


def problems_of(parts: list[dict[str, Any]], trained: dict[int, list[int]], samples: int, steps: int) -> list[str]:
    """What is not as it should be."""
    problems = []
    if counts_of(trained) != Counter(range(samples)):
        problems.append("not every sample was trained once")
    if sorted(trained) != list(range(1, steps + 1)):
        problems.append("not every step was trained")
    for part in parts:
        expected = {"itself": 0, "SIGTERM": 128 + signal.SIGTERM, "SIGKILL": -signal.SIGKILL}[part["ended_by"]]
        if part["exit_code"] != expected:
            problems.append(f"the part on {part['ranks']} ranks ended with exit code {part['exit_code']}")
        if part["ended_by"] != "SIGKILL" and part["saved"] != part["trained"]:
            problems.append(f"the part on {part['ranks']} ranks trained {part['trained']}, saved {part['saved']}")
    return problems


def compare(options: argparse.Namespace, work: Path) -> int:
    """Train both ways, report, and return the exit code."""
    samples = options.steps * BATCH - 7  # the last batch is not full
    write_numbered_data(work / "data", samples, ROWS)
    training = [*small_training(work / "data", ROWS), "--train.global_batch_size", str(BATCH)]
    expected = train_uninterrupted(training, ranks=options.worlds[0], work=work, timeout_s=PATIENCE_S)
    parts = train_in_parts(training, options.worlds, options.steps, work)
    trained = trained_samples(read_attempts(work / "log"))
    problems = problems_of(parts, trained, samples, options.steps)
    found = saved_tensors(work / "moved" / "checkpoints" / f"step_{options.steps:08d}")
    auc = {
        name: json.loads((work / name / "summary.json").read_text())["test"]["auc"] for name in ("reference", "moved")
    }
    if not all(isinstance(value, float) and math.isfinite(value) for value in auc.values()):
        problems.append(f"test AUC {auc}")
    weights = [name for name in expected if name.endswith((".weight", ".bias")) and not name.startswith("average.")]
    result = {
        "command": f"python -m scripts.world_changes --worlds {','.join(map(str, options.worlds))} --steps {options.steps}",
        "worlds": parts,
        "samples": samples,
        "trained_once": sum(count == 1 for count in counts_of(trained).values()),
        "largest_difference_of_a_weight": max(float((expected[w] - found[w]).abs().max()) for w in weights),
        "test_auc": auc,
        "problems": problems,
    }
    for name, value in result.items():
        print(f"{name:35} {value}")
    if options.output:
        options.output.write_text(json.dumps(result, indent=1) + "\n")
    return 1 if problems else 0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    worlds = "numbers of ranks, one after the other"
    parser.add_argument(
        "--worlds", type=lambda text: [int(word) for word in text.split(",")], default=[2, 4, 1], help=worlds
    )
    parser.add_argument("--steps", type=int, default=600, help="of the epoch")
    parser.add_argument("--work", type=Path, help="folder for the runs, which stay (default: a temporary one)")
    parser.add_argument("--output", type=Path, help="JSON file for the figures")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # through what ends the jobs
    if options.work is None:
        with tempfile.TemporaryDirectory() as folder:
            return compare(options, Path(folder))
    options.work.mkdir(parents=True, exist_ok=True)
    return compare(options, options.work)


if __name__ == "__main__":
    sys.exit(main())
