"""Which benchmarks correct a calibration, and as what hardware they are described."""

import json

import pytest

from dlrm.errors import ConfigError
from dlrm.scaling.calibrate import steps

H100 = "NVIDIA H100 80GB HBM3"


def left(folder, name, device, devices, *, ranks=2, hosts=1, ms=5.0):
    place = folder / name
    place.mkdir(parents=True)
    told = {
        "format": "dlrm-benchmark", "without": [], "device": device, "environment": {"devices": devices},
        "ranks": ranks, "hosts": hosts, "step": {"median_ms": ms},
    }  # fmt: skip
    (place / "benchmark.json").write_text(json.dumps(told))
    (place / "benchmark.yaml").write_text("data: {kind: random, rows: [10, 20], train_samples: 100}\n")


@pytest.fixture
def seen(monkeypatch):
    calls = []

    def described(config, dataset, ranks, ranks_per_host, device_name):
        calls.append((ranks, ranks_per_host, device_name))

    monkeypatch.setattr(steps, "described", described)
    return calls


def test_steps_count_on_the_hardware_they_were_measured_on(tmp_path, seen):
    left(tmp_path, "cpu", "cpu", [])
    left(tmp_path, "gpu", "cuda", [H100] * 8, ranks=16, hosts=2)
    left(tmp_path, "gpu again", "cuda", [H100] * 8, ranks=16, hosts=2, ms=9.0)
    left(tmp_path, "as many ranks otherwise", "cuda", [H100] * 4, ranks=16, hosts=4)
    found = steps.steps_in(tmp_path, H100)
    assert sorted(seen) == [(16, 4, H100), (16, 8, H100)]
    assert sorted(step.step_s for step in found) == pytest.approx([0.005, 0.007])
    seen.clear()
    steps.steps_in(tmp_path, "CPU")
    assert seen == [(2, 2, "")]
    with pytest.raises(ConfigError, match="holds no results of benchmarks on NVIDIA A100"):
        steps.steps_in(tmp_path, "NVIDIA A100")
