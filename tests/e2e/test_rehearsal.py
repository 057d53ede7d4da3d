"""The rehearsal of CUDA, whole: only where torch is its CUDA build, which the environment of these tests is not."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from scripts.rehearse_cuda.build import CannotBuildError, cuda_headers

ROOT = Path(__file__).resolve().parents[2]
QUICKSTART = (
    *("train", "--config", "configs/quickstart.yaml", "--train.max_steps", "22", "--logging.every_steps", "1000"),
    *("--data.validation_samples", "0", "--data.test_samples", "0", "--evaluation.test", "false"),
)


def missing():
    """What a rehearsal lacks here; empty if nothing."""
    if torch.version.cuda is None:
        return "torch's CUDA build (make rehearse-install)"
    if shutil.which("cc") is None:
        return "a C compiler (cc)"
    try:
        cuda_headers()
    except CannotBuildError as error:
        return str(error)
    return ""


HANG_S = 900  # a guard against hanging tests
pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(HANG_S),
    pytest.mark.skipif(bool(missing()), reason=f"needs {missing()}"),
]


def rehearse(*words):
    command = [sys.executable, "-m", "scripts.rehearse_cuda", *words]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=HANG_S)


@pytest.mark.parametrize("how", [("--ranks", "2"), ("--solo", "9/16/8")])
def test_nothing_unknown_happens_in_a_step(tmp_path, how):
    done = rehearse(*how, "--json", str(tmp_path / "report.json"), "--", *QUICKSTART)
    assert done.returncode == 0, done.stdout + done.stderr
    ranks = json.loads((tmp_path / "report.json").read_text())["ranks"]
    assert [rank["rank"] for rank in ranks] == ([0, 1] if "--ranks" in how else [9])
    assert all(rank["quiet_steps"] > 3 and rank["per_step"]["launches"]["calls"] > 50 for rank in ranks)


MATRIX = ("--matrix", "sample", "--only", "^quickstart, 1 rank$")


@pytest.mark.parametrize("how", [("--", *QUICKSTART), MATRIX], ids=["job", "matrix"])
@pytest.mark.parametrize(
    ("in_the_step", "told"),
    [
        ("output.loss.item()", "1.00 waits a step"),
        ("torch.ones(8).to(output.loss.device, non_blocking=True)", "1.00 h2d_pageable a step"),
    ],
)
def test_what_enters_the_step_fails_it(tmp_path, how, in_the_step, told):
    (tmp_path / "sitecustomize.py").write_text(ENTERED.replace("IN_THE_STEP", in_the_step))
    command = [sys.executable, "-m", "scripts.rehearse_cuda", *how]
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=environment, timeout=HANG_S)
    said = done.stdout + done.stderr
    assert done.returncode == 1, said
    assert f"(rank 0) {told}" in said
    assert "looked_at" in said


ENTERED = """
import sys
import importlib.abc


class Wrapping(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name != "dlrm.train.build":
            return None
        sys.meta_path.remove(self)
        import torch
        from dlrm.train.standard_hooks import ShowActivity

        before = ShowActivity.on_step

        def looked_at(self, position, output):
            IN_THE_STEP
            before(self, position, output)

        ShowActivity.on_step = looked_at
        return None


sys.meta_path.insert(0, Wrapping())
"""


def test_a_device_that_is_too_small_is_a_failure():
    done = rehearse("--gib", "0.00001", "--", *QUICKSTART)
    assert done.returncode not in (0, 1), done.stdout


def test_losses_are_those_of_the_cpu():
    done = rehearse("--matrix", "all", "--only", "losses: (quickstart, 1|data_parallel adagrad)")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "2 of 2 cases are as they should be" in done.stdout
