import importlib.util
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def local(monkeypatch):
    """launch/local.py as a module."""
    spec = importlib.util.spec_from_file_location("launch_local", ROOT / "launch" / "local.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def machine(monkeypatch, tmp_path):
    """Sets how many CUDA devices torch sees; None: there is no driver."""

    def with_devices(count):
        monkeypatch.setenv("PATH", str(tmp_path))
        if count is not None:
            (tmp_path / "nvidia-smi").write_text("#!/bin/sh\n")
            (tmp_path / "nvidia-smi").chmod(0o755)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: count)

    return with_devices


@pytest.mark.parametrize(("count", "ranks"), [(None, "2"), (0, "2"), (1, "1"), (4, "4")])
def test_auto_is_a_rank_for_each_device_or_two_on_cpu(local, machine, count, ranks):
    machine(count)
    argv = ["-j", "auto", "--config", "a.yaml", "--", "-j", "auto"]
    assert local.with_number_of_ranks(argv) == ["-j", ranks, *argv[2:]]


@pytest.mark.parametrize("argv", [["-j", "3", "--config", "a.yaml"], ["--config", "a.yaml"], ["auto"], []])
def test_other_arguments_stay_as_they_are(local, machine, argv):
    machine(8)
    assert local.with_number_of_ranks(argv) == argv
