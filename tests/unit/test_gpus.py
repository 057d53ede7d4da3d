"""The plugin of tests/gpus.py, on a machine that it is made to believe has GPUs."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
CONFTEST = """
from tests import gpus

pytest_plugins = ["tests.gpus"]
gpus.nvidia_gpus = lambda: ["H100"]
gpus.built_for_cuda = lambda: True
"""
TESTS = """
import os, pytest

def test_on_cpu():
    assert os.environ["CUDA_VISIBLE_DEVICES"] == ""

@pytest.mark.cuda
def test_sees():
    print("seen", os.environ.get("CUDA_VISIBLE_DEVICES"))
    assert os.environ.get("CUDA_VISIBLE_DEVICES") != ""

@pytest.mark.cuda
def test_fails():
    assert 1 + 1 == 3

@pytest.mark.cuda
def test_crashes():
    os._exit(7)
"""


@pytest.mark.parametrize(("visible", "shown"), [("0,1", "failed"), ("", "skipped")])
def test_marked_tests_alone_see_gpus_and_are_reported_with_the_others(tmp_path, visible, shown):
    (tmp_path / "conftest.py").write_text(CONFTEST)
    (tmp_path / "test_it.py").write_text(TESTS)
    (tmp_path / "pytest.ini").write_text("[pytest]\nmarkers = cuda: needs a GPU\n")
    environment = {name: value for name, value in os.environ.items() if "VISIBLE" not in name and "TESTS" not in name}
    environment["PYTHONPATH"] = str(ROOT)
    if visible is not None:
        environment["CUDA_VISIBLE_DEVICES"] = visible
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-rA", "-p", "no:cacheprovider"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
    )
    out = done.stdout
    assert "PASSED test_it.py::test_on_cpu" in out, out + done.stderr
    if shown == "skipped":
        assert "1 passed, 3 skipped" in out, out
        return
    assert "2 failed, 2 passed" in out, out
    assert "PASSED test_it.py::test_sees" in out
    assert f"seen {visible}" in out
    assert "assert (1 + 1) == 3" in out
    assert "no end in the pytest with GPUs (exit code 7)" in out
