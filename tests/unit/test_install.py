"""scripts/install.py, as far as it can be seen without installing anything."""

import importlib.util
from pathlib import Path

import pytest

from dlrm.distributed.versions import supported

ROOT = Path(__file__).resolve().parents[2]
CPU = ("torch-2.13.0+cpu", "fbgemm_gpu_cpu-1.8.0", "torchrec-1.8.0")
CUDA = ("torch-2.13.0", "fbgemm_gpu-1.8.0", "torchrec-1.8.0")


@pytest.fixture
def install(monkeypatch, tmp_path):
    """The script as a module; its environment is in a folder of the test's."""
    spec = importlib.util.spec_from_file_location("install_script", ROOT / "scripts" / "install.py")
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setenv("DLRM_VENV", str(tmp_path / "venv"))
    monkeypatch.setitem(importlib.import_module("sys").modules, "install_script", module)
    spec.loader.exec_module(module)
    module.PYTHON.parent.mkdir(parents=True)
    module.PYTHON.touch()
    return module


def wanted(install, accelerator="cpu"):
    return install.Wanted(str(install.VENV), "3.11", accelerator, "2.13.0", "1.8.0", "1.8.0", {})


def put(install, *packages):
    for package in packages:
        (install.VENV / "lib" / "python3.11" / "site-packages" / f"{package}.dist-info").mkdir(parents=True)


@pytest.mark.parametrize(
    ("accelerator", "packages", "ready"),
    [
        ("cpu", CPU, True),
        ("cpu", ("torch-2.13.0", *CPU[1:]), True),  # computes on CPU as well
        ("cuda", CUDA, True),
        ("cuda", ("torch-2.13.0+cu130", *CUDA[1:]), True),
        ("cuda", (CPU[0], *CUDA[1:]), False),
        ("cuda", (CUDA[0], *CPU[1:]), False),
        ("cpu", (*CPU, "fbgemm_gpu-1.8.0"), False),
        ("cpu", CPU[:2], False),
        ("cpu", ("torch-2.12.0+cpu", *CPU[1:]), False),
        ("cpu", (*CPU[:2], "torchrec-1.7.0"), False),
    ],
)
def test_an_environment_is_ready_only_with_the_packages_that_its_note_says(install, accelerator, packages, ready):
    asked = wanted(install, accelerator)
    put(install, *packages)
    assert asked.satisfied_by(install.asdict(asked)) is ready


def test_the_default_is_a_supported_triple_and_others_are_chosen_by_name(install):
    triples = {triple.torch: triple for triple in supported()}
    assert install.choose_triple("")[0] == f"{install.DEFAULT_TORCH}.0"
    assert install.choose_triple("2.14") == ("2.14.0", triples["2.14"].fbgemm, triples["2.14"].torchrec)
    with pytest.raises(install.InstallError, match=r"torch 2\.15 is not supported; choose one of 2\.11, "):
        install.choose_triple("2.15")


def test_a_build_for_cpu_that_is_nowhere_is_replaced_by_that_for_cuda(install, monkeypatch):
    asked = []

    def pip(*arguments):
        asked.append(arguments)
        if any("+cpu" in str(argument) for argument in arguments):
            raise install.InstallError("No matching distribution")

    monkeypatch.setattr(install, "pip", pip)
    install.install_cpu_torch("2.14.0")
    assert [arguments[-1] for arguments in asked[:2]] == ["torch==2.14.0+cpu"] * 2
    assert asked[2][:2] == ("install", "torch==2.14.0")
