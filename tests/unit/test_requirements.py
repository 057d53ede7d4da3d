import re
import tomllib
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[2]
# Installed apart from the pinned files, because the wheels depend on the machine.
MACHINE_DEPENDENT = {"torch", "torchrec", "fbgemm-gpu", "fbgemm-gpu-cpu"}


def pins(*files):
    lines = [line for file in files for line in (ROOT / "requirements" / file).read_text().splitlines()]
    pinned = [re.fullmatch(r"([\w.-]+)==([\w.]+)", line) for line in lines if line and not line.startswith("#")]
    assert all(pinned), "every line pins one version"
    return {canonicalize_name(match[1]): match[2] for match in pinned}


def test_what_mlflow_needs_is_in_its_file_or_pinned_already():
    pytest.importorskip("mlflow", reason="requirements/mlflow.txt is not installed")
    own = pins("mlflow.txt")
    available = {**pins("runtime.txt"), **own}
    for name in own:
        for requirement in map(Requirement, metadata.requires(name) or []):
            if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
                assert requirement.specifier.contains(available[canonicalize_name(requirement.name)]), requirement
    runtime = pins("runtime.txt")
    assert {name for name in own if name in runtime} == {"importlib-metadata", "certifi"}


def test_every_dependency_of_the_project_is_pinned_within_its_bounds():
    runtime = pins("runtime.txt")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    for requirement in map(Requirement, project["dependencies"]):
        assert requirement.specifier.contains(runtime[canonicalize_name(requirement.name)]), requirement


def test_mlperf_logging_needs_pandas_beside_what_is_pinned():
    pinned = pins("runtime.txt", "dev.txt")
    assert pins("mlperf.txt").keys() == {"mlperf-logging"}
    needed = map(Requirement, metadata.requires("mlperf-logging"))
    unmet = [one.name for one in needed if not one.specifier.contains(pinned.get(canonicalize_name(one.name), "0"))]
    assert unmet == ["pandas"]  # which its package_checker and rcp_checker import, and nothing that is used here


def test_what_the_pinned_packages_need_is_pinned_too():
    pinned = pins("runtime.txt", "dev.txt")
    runtime = pins("runtime.txt")
    for name in [*pinned, "torch", "torchrec"]:
        for requirement in map(Requirement, metadata.requires(name) or []):
            needed = canonicalize_name(requirement.name)
            if (requirement.marker and not requirement.marker.evaluate({"extra": ""})) or needed in MACHINE_DEPENDENT:
                continue
            if needed.startswith(("nvidia-", "cuda-", "triton")):
                continue  # the CUDA build of torch brings its own
            available = runtime if name in runtime or name in MACHINE_DEPENDENT else pinned
            assert needed in available, f"{name} needs {requirement}"
            assert requirement.specifier.contains(available[needed], prereleases=True), f"{name} needs {requirement}"
