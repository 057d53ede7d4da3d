"""Whether a rehearsal that computes trains as the CPU does: the losses of every step, side by side."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from scripts.rehearse_cuda.job import ONE_CASE_S, ROOT, Asked, Outcome, environment, run

TOLERANCE = 1e-4  # relative, after a few dozen steps: sums are taken in other orders
_EVERY_STEP = ("--logging.every_steps", "1")
_SHARDING = ("--sharding.types=", "--sharding.kernels=", "--sharding.group_size=")


def against_cpu(asked: Asked) -> tuple[Outcome, list[str]]:
    """Rehearse with arithmetic, train the same on one rank of the CPU, and say where the losses differ.

    The CPU has one kernel of tables, and neither ranks nor sharding change the training, so it is told of none of them. Nor
    do copies of tables under SGD that are averaged in each step.
    """
    with tempfile.TemporaryDirectory(prefix="rehearsal-losses-") as folder:
        own = ("--run.dir", folder, "--run.name")
        words = (*asked.words, *_EVERY_STEP, *own)
        outcome = run(replace(asked, words=(*words, "rehearsed"), arithmetic=True), quiet=True)
        if outcome.exit_code:
            return outcome, []
        plain = [*_unsharded(words), "cpu", "--distributed.device", "cpu"]
        command = [sys.executable, "dlrm_main.py", *plain]
        over = {**os.environ, **environment(asked, folder)}  # fbgemm's CUDA build does not load without a driver
        done = subprocess.run(
            command, cwd=ROOT, env=over, capture_output=True, text=True, timeout=ONE_CASE_S, check=False
        )
        if done.returncode:
            return Outcome(done.returncode, [], f"on the CPU: {done.stderr}"), []
        found, expected = (losses_of(Path(folder, name, "metrics.jsonl")) for name in ("rehearsed", "cpu"))
    left_out = sorted({name for rank in outcome.ranks for name in rank["not_computed"]})
    return outcome, [*differences(found, expected), *(f"{name} was not computed" for name in left_out)]


def _unsharded(words: tuple[str, ...]) -> list[str]:
    return [word for word in words if not word.startswith(_SHARDING)]


def losses_of(metrics: Path) -> dict[int, float]:
    """Step -> loss, of a run's metrics.jsonl."""
    entries = [json.loads(line) for line in metrics.read_text().splitlines()]
    return {entry["step"]: entry["loss"] for entry in entries if entry["kind"] == "train" and "task" not in entry}


def differences(found: Mapping[int, float], expected: Mapping[int, float]) -> list[str]:
    """The first step whose losses differ, or that only one of the two has; nothing if they are the same."""
    if not expected or set(found) != set(expected):
        return [f"{len(found)} losses were rehearsed, {len(expected)} come from the CPU"]
    for step, loss in sorted(expected.items()):
        if not math.isclose(found[step], loss, rel_tol=TOLERANCE):
            return [f"step {step}: the rehearsal's loss is {found[step]}, the CPU's {loss}"]
    return []
