import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest

from dlrm.distributed import versions
from dlrm.distributed.versions import Installed, Triple
from dlrm.errors import SetupError

TABLE = [Triple("2.12", "1.7.0", "1.7.0"), Triple("2.13", "1.8.0", "1.8.0")]
ROOT = Path(__file__).resolve().parents[3]


def installed(torch="2.13.0+cpu", torchrec="1.8.0", **builds):
    return Installed(torch, {name.replace("_", "-"): version for name, version in builds.items()}, torchrec)


@pytest.mark.parametrize(
    "fine",
    [
        installed(fbgemm_gpu_cpu="1.8.0"),
        installed("2.13.0", fbgemm_gpu="1.8.0"),
        installed("2.13.1+cu130", "1.8.0+cu130", fbgemm_gpu="1.8.0+cu130"),
        installed(fbgemm_gpu="1.8.0+cpu"),
        installed("2.12.0", "1.7.0", fbgemm_gpu="1.7.0.post1"),
    ],
)
def test_a_supported_triple_has_no_problem(fine):
    assert versions.problem(fine, TABLE) == ""


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (installed(fbgemm_gpu_cpu="1.7.0"), "torch 2.13 needs fbgemm-gpu-cpu 1.8.0 and torchrec 1.8.0"),
        (installed(torchrec="1.7.0", fbgemm_gpu_cpu="1.8.0"), "torchrec 1.7.0 do not belong together"),
        (installed("2.15.0", fbgemm_gpu="1.8.0"), "torch must be one of 2.12, 2.13"),
        (installed("2.1.0", fbgemm_gpu="1.8.0"), "torch must be one of 2.12, 2.13"),
        (installed(fbgemm_gpu="1.8.0", fbgemm_gpu_cpu="1.8.0"), "fbgemm-gpu and fbgemm-gpu-cpu are both installed"),
        (installed(fbgemm_gpu="1.8.0"), "needs fbgemm-gpu-cpu"),
        (installed(fbgemm_gpu_nightly_cpu="2026.1.1"), "do not belong together"),
        (installed(None, fbgemm_gpu_cpu="1.8.0"), "packages are missing: found no torch"),
        (installed(torchrec=None), "packages are missing: found torch 2.13.0+cpu, no fbgemm-gpu, no torchrec"),
    ],
)
def test_a_wrong_combination_is_one_line_with_what_is_there_and_the_hint(wrong, said):
    line = versions.problem(wrong, TABLE)
    assert said in line
    assert line.endswith("run `make install`")
    assert "\n" not in line


def test_the_check_reads_the_metadata_of_installed_packages(monkeypatch):
    there = {"torch": "2.13.0+cpu", "fbgemm-gpu-cpu": "1.8.0", "torchrec": "1.6.1"}

    def version(package):
        if package not in there:
            raise metadata.PackageNotFoundError(package)
        return there[package]

    monkeypatch.setattr(metadata, "version", version)
    with pytest.raises(SetupError, match=r"torchrec 1\.6\.1 do not belong together"):
        versions.check_versions()
    there["torchrec"] = "1.8.0"
    versions.check_versions()


def test_fbgemm_for_cuda_without_a_driver_is_one_line_before_anything_is_imported(monkeypatch):
    monkeypatch.setattr(versions, "DRIVER_LIBRARY", "libnvidia-ml.so.0")
    monkeypatch.setattr(Installed, "here", lambda: installed("2.13.0", fbgemm_gpu="1.8.0"))
    with pytest.raises(
        SetupError, match=r"^libnvidia-ml\.so\.0 of the NVIDIA driver is not here, .* --gpus all"
    ) as caught:
        versions.check_versions()
    assert "run `make install ACCELERATOR=cpu` to train on CPU" in str(caught.value)
    monkeypatch.setattr(versions, "DRIVER_LIBRARY", "libc.so.6")
    versions.check_versions()


@pytest.mark.parametrize("build", [{"fbgemm_gpu_cpu": "1.8.0"}, {"fbgemm_gpu": "1.8.0+cpu"}])
def test_fbgemm_for_cpu_needs_no_driver(monkeypatch, build):
    monkeypatch.setattr(versions, "DRIVER_LIBRARY", "libnvidia-ml.so.0")
    assert versions.driver_problem(installed(**build)) == ""


def test_this_environment_is_a_supported_triple():
    versions.check_versions()


def test_the_table_reads_the_same_from_an_installed_package(monkeypatch, tmp_path):
    from_checkout = versions.supported()
    requirements = ["torchx>=0.7.0"] + [
        f'{package}; extra == "torch-{triple.torch.replace(".", "-")}"'
        for triple in from_checkout
        for package in (f"torch=={triple.torch}.*", f"fbgemm-gpu=={triple.fbgemm}", f"torchrec=={triple.torchrec}")
    ]
    monkeypatch.setattr(versions, "__file__", str(tmp_path / "dlrm" / "distributed" / "versions.py"))
    monkeypatch.setattr(metadata, "requires", lambda _: requirements)
    assert versions.supported() == from_checkout
    assert [triple.torch for triple in from_checkout] == ["2.11", "2.12", "2.13", "2.14"]


def test_the_check_needs_nothing_but_the_standard_library():
    script = "from dlrm.distributed.versions import supported; print(len(supported()))"
    alone = subprocess.run([sys.executable, "-S", "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    assert alone.stdout == "4\n"
