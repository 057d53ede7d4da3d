"""A plugin of pytest that keeps GPUs away from tests that mean the CPU, and gives them to those marked ``cuda``.

The tests' process and all that it starts see no GPU: tests choose the CPU by not choosing, and a fork server whose imports
have started CUDA makes ranks that cannot use it. Tests marked ``cuda`` run in a pytest of their own, one a file, which sees
the GPUs, and are reported here as if they had run here.
"""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from dlrm.command.doctor import nvidia_gpus

INSIDE = "DLRM_TESTS_REPORT_TO"  # a file: this is the pytest that sees GPUs
BEFORE = "DLRM_TESTS_GPUS_BEFORE"  # CUDA_VISIBLE_DEVICES as the user had it
VISIBLE = "CUDA_VISIBLE_DEVICES"


def pytest_configure(config):
    os.environ.setdefault("PYTORCH_NVML_BASED_CUDA_CHECK", "1")  # importing fbgemm asks for devices, which starts CUDA
    if INSIDE in os.environ:
        config.pluginmanager.register(Reporter(config, os.environ[INSIDE]))
        return
    if VISIBLE in os.environ:
        os.environ.setdefault(BEFORE, os.environ[VISIBLE])
    os.environ[VISIBLE] = ""


class Reporter:
    """Writes what becomes of each test, a line a report."""

    def __init__(self, config, path):
        self._config, self._path = config, path

    def pytest_runtest_logreport(self, report):
        data = self._config.hook.pytest_report_to_serializable(config=self._config, report=report)
        with open(self._path, "a") as file:
            file.write(json.dumps(data) + "\n")


def pytest_collection_finish(session):
    items = [item for item in session.items if item.get_closest_marker("cuda") is not None]
    if INSIDE in os.environ or not items:
        return
    reason = why_not()
    if reason:
        for item in items:
            item.add_marker(pytest.mark.skip(reason=reason))
        return
    for item in items:
        item.add_marker(pytest.mark.timeout(0))  # the first of a file waits for all; each has its own time-out in there
    session.config.pluginmanager.register(WithGpus(session.config, items))


def why_not():
    """Why tests marked ``cuda`` cannot run; empty if they can."""
    if os.environ.get(BEFORE) == "" or not nvidia_gpus():
        return "needs a GPU"
    return "" if built_for_cuda() else "needs a torch that is built for CUDA"


def built_for_cuda():
    import torch

    return torch.version.cuda is not None


class WithGpus:
    """Runs ``items`` in a pytest that sees the GPUs: all of a file when the first of them is reached."""

    def __init__(self, config, items):
        self._config = config
        self._ids = [str(item.nodeid) for item in items]
        self._reports = {}

    def pytest_runtest_protocol(self, item):
        if str(item.nodeid) not in self._ids:
            return None
        if str(item.nodeid) not in self._reports:
            file = str(item.nodeid).split("::")[0]
            self._reports |= self._run([test for test in self._ids if test.split("::")[0] == file])
        item.ihook.pytest_runtest_logstart(nodeid=item.nodeid, location=item.location)
        for report in self._reports[str(item.nodeid)]:
            item.ihook.pytest_runtest_logreport(report=report)
        item.ihook.pytest_runtest_logfinish(nodeid=item.nodeid, location=item.location)
        return True

    def _run(self, ids):
        hidden = (VISIBLE, BEFORE)
        environment = {name: value for name, value in os.environ.items() if name not in hidden}
        if BEFORE in os.environ:
            environment[VISIBLE] = os.environ[BEFORE]
        root = str(self._config.rootpath)
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder, "reports.jsonl")
            file.touch()
            done = subprocess.run(
                [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "--rootdir", root, *ids],
                cwd=root,
                env={**environment, INSIDE: str(file)},
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
            lines = file.read_text().splitlines()
        reports = {test: [] for test in ids}
        for line in lines:
            report = self._config.hook.pytest_report_from_serializable(config=self._config, data=json.loads(line))
            reports[str(report.nodeid)].append(report)
        for test, found in reports.items():
            if not found or found[-1].when != "teardown":  # the process died
                text = f"no end in the pytest with GPUs (exit code {done.returncode})\n{done.stdout}"
                found.append(pytest.TestReport(test, (test, None, test), {}, "failed", text, "call"))
        return reports
