"""The Dockerfile and .dockerignore, as far as they can be judged without building; scripts/try_image.py builds one."""

from __future__ import annotations

import fnmatch
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
DOCKERFILE = re.sub(r"\\\n\s*", " ", (ROOT / "Dockerfile").read_text())
IGNORE = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if line and not line.startswith("#")]


def stages() -> dict[str, list[str]]:
    """Name of each stage -> its instructions, FROM first."""
    found: dict[str, list[str]] = {}
    for line in DOCKERFILE.splitlines():
        named = re.fullmatch(r"FROM \S+ AS (\S+)", line)
        if named:
            found[named[1]] = []
        if found and line and not line.startswith("#"):
            found[list(found)[-1]].append(line)
    return found


STAGES = stages()


def lineage(stage: str) -> list[str]:
    """Instructions of a stage and of those it stands on, in the order in which they take effect."""
    base = STAGES[stage][0].split()[1]
    return [*(lineage(base) if base in STAGES else []), *STAGES[stage]]


def copied(stage: str) -> list[str]:
    """What a stage copies from the checkout."""
    copies = [line.split()[1:] for line in lineage(stage) if line.startswith("COPY ")]
    return [path for copy in copies if not copy[0].startswith("--from") for path in copy[:-1]]


def sent(path: str) -> bool:
    """Whether .dockerignore lets a file, by its path in the checkout, through to the build: the last pattern decides."""
    kept = True
    folders = [path, *(str(parent) for parent in Path(path).parents if str(parent) != ".")]
    for pattern in IGNORE:
        bare = pattern.removeprefix("!")
        names = [bare, bare.removeprefix("**/")] if bare.startswith("**/") else [bare]
        if any(fnmatch.fnmatch(folder, name) for folder in folders for name in names):
            kept = pattern.startswith("!")
    return kept


def test_there_are_images_for_cuda_cpu_and_tests_and_cuda_is_the_one_without_a_target() -> None:
    assert {"cpu", "cuda", "test"} <= STAGES.keys()
    assert list(STAGES)[-1] == "cuda"


@pytest.mark.parametrize("stage", ["cpu", "cuda", "test"])
def test_a_container_is_not_root_and_kubernetes_can_see_it(stage: str) -> None:
    user = [line.split()[1] for line in lineage(stage) if line.startswith("USER ")][-1]
    number, _, group = user.partition(":")
    assert number.isdecimal()  # runAsNonRoot refuses a name
    assert int(number) > 0
    assert group == "0"


@pytest.mark.parametrize("stage", list(STAGES))
def test_what_is_copied_is_in_the_checkout_and_reaches_the_build(stage: str) -> None:
    for path in copied(stage):
        assert (ROOT / path).exists(), path
        if path != ".":
            below = path.rstrip("/")
            assert sent(below if (ROOT / below).is_file() else f"{below}/any.file"), path


@pytest.mark.parametrize("stage", ["install-cpu", "install-cuda"])
def test_what_the_installation_reads_is_copied_before_it_runs(stage: str, tmp_path: Path) -> None:
    for path in copied(stage):
        source, target = ROOT / path, tmp_path / path
        if source.is_dir():
            shutil.copytree(source, target)
        else:
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(source, target)
    script = (
        "import argparse, scripts.install as install;"
        "print(install.decide(argparse.Namespace(dev=True, torch='', accelerator='cpu', report=False), {}))"
    )
    command = [sys.executable, "-S", "-c", script]  # without what is installed
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(tmp_path)}
    outcome = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert outcome.returncode == 0, outcome.stderr
    assert "torch 2." in outcome.stdout


@pytest.mark.parametrize("stage", ["cpu", "cuda"])
def test_what_a_job_needs_of_the_checkout_is_in_the_image(stage: str) -> None:
    assert any("--from=code /dlrm /dlrm" in line for line in STAGES[stage])
    # A program that a component starts, and what it reads; pyproject.toml says which versions belong together.
    assert {"dlrm_main.py", "dlrm/", "launch/", "components/", "configs/", "pyproject.toml"} <= set(copied("code"))


@pytest.mark.parametrize(
    "path",
    [
        ".git/config", ".venv/bin/python", ".venv-2.12/bin/python", "runs/quickstart/config.yaml", ".env", "id_rsa",
        "train.txt", "packed/train_dense.npy", "data/raw/train.txt", "dlrm/__pycache__/errors.cpython-311.pyc",
        "tests/dist/__pycache__/a.pyc", ".mypy_cache/a.json", "build/lib/dlrm/errors.py",
    ],
)  # fmt: skip
def test_what_is_no_code_stays_out_of_the_build(path: str) -> None:
    assert not sent(path)


def test_all_that_git_knows_reaches_the_build_so_that_the_tests_can_run_in_the_image() -> None:
    if not (ROOT / ".git").exists():
        pytest.skip("no checkout: what git knows is not to be seen")
    files = subprocess.run(
        ["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.splitlines()
    assert [path for path in files if not sent(path)] == []


@pytest.mark.parametrize("stage", ["cpu", "cuda", "test"])
def test_all_that_libraries_keep_goes_where_any_user_may_write(stage: str) -> None:
    settings = dict(re.findall(r"(\w+)=(\S+)", " ".join(line for line in lineage(stage) if line.startswith("ENV "))))
    (made,) = (line for line in lineage(stage) if "install -d -m 1777" in line)
    open_folders = made.partition("install -d -m 1777")[2].split()
    assert settings["HOME"] in open_folders
    assert "/dlrm/runs" in open_folders  # run.dir, from the working directory /dlrm
    for name in ("XDG_CACHE_HOME", "NUMBA_CACHE_DIR", "MPLCONFIGDIR", "TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR"):
        assert any(settings[name].startswith(folder) for folder in open_folders), name
    assert settings["USER"]  # torch asks for a name, and an arbitrary user id has none in /etc/passwd


def test_the_base_is_pinned_by_digest() -> None:
    assert re.search(r"^ARG BASE_IMAGE=\S+:3\.\d+\.\d+-\S+@sha256:[0-9a-f]{64}$", DOCKERFILE, flags=re.MULTILINE)
    assert [lines[0].split()[1] for lines in STAGES.values() if lines[0].split()[1] not in STAGES] == ["${BASE_IMAGE}"]
