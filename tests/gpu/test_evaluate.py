"""A checkpoint's figures on a CUDA device are those of the training there, and of the CPU. Skipped without one."""

import json

import pytest

from tests.gpu.test_training import SMALL
from tests.support.command import run_command

pytestmark = pytest.mark.cuda


def test_figures_on_cuda_are_those_of_training_and_of_the_cpu(tmp_path):
    words = ["train", *SMALL, "run.name=a", f"run.dir={tmp_path}", "train.average_decay=0.9", "distributed.device=cuda"]
    (outcome,) = run_command(words)
    assert outcome.exit_code == 0, outcome.stderr
    found = {}
    for device in ("cuda", "cpu"):
        path = tmp_path / f"{device}.json"
        slices = ["--slices", "cat_1,int_0", "--output", str(path)]
        (outcome,) = run_command(["evaluate", str(tmp_path / "a"), *slices, f"distributed.device={device}"])
        assert outcome.exit_code == 0, outcome.stderr
        found[device] = json.loads(path.read_text())
    assert found["cuda"]["tasks"]["label"] == json.loads((tmp_path / "a" / "summary.json").read_text())["test"]
    for one, other in zip(found["cuda"]["slices"], found["cpu"]["slices"], strict=True):
        assert [one[key] for key in ("slice", "samples")] == [other[key] for key in ("slice", "samples")]
        assert one["log_loss"] == pytest.approx(other["log_loss"], rel=1e-4)
