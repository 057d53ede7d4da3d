import subprocess
import sys
from pathlib import Path

import pytest

from dlrm.command import doctor
from dlrm.command.doctor import Line

ROOT = Path(__file__).resolve().parents[3]


def test_where_nothing_is_installed_the_doctor_says_what_is_missing_and_how_to_mend_it():
    script = "import sys; from dlrm.command.doctor import run; sys.exit(run())"
    alone = subprocess.run([sys.executable, "-S", "-c", script], cwd=ROOT, capture_output=True, text=True)
    assert alone.returncode == 2
    assert "torch: is not installed; run `make install`" in alone.stdout
    assert alone.stderr == ""


def test_a_healthy_machine_gets_exit_code_0(monkeypatch, capsys):
    monkeypatch.setattr(doctor, "trials", lambda gpus: [Line("fused cpu kernels", "work")])
    monkeypatch.setattr(doctor, "machine", lambda gpus: [Line("cores", "2")])
    assert doctor.run() == 0
    assert capsys.readouterr().out.endswith("Everything that was tried works.\n")


def test_a_failed_trial_is_repeated_at_the_end_with_its_mend(monkeypatch, capsys):
    monkeypatch.setattr(doctor, "trials", lambda gpus: [Line("gloo collectives", "fail", "timed out; name a network")])
    monkeypatch.setattr(doctor, "machine", lambda gpus: [])
    assert doctor.run() == 2
    assert capsys.readouterr().out.splitlines()[-1] == "  gloo collectives: timed out; name a network"


def test_kernels_and_collectives_are_tried_for_real():
    lines = list(doctor.trials([]))
    assert [line.topic for line in lines] == ["fused cpu kernels", "gloo collectives"]
    assert [line.problem for line in lines] == ["", ""]


def test_a_trial_that_crashes_or_fails_gives_its_last_line():
    assert doctor._try([["kernels", "nonsense"]])[0] != ""


def test_gpus_are_listed_as_nvidia_smi_says(monkeypatch, tmp_path):
    fake = tmp_path / "nvidia-smi"
    fake.write_text("#!/bin/sh\necho 'NVIDIA H200, 143771 MiB, 570.1'\n")
    fake.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    assert doctor.nvidia_gpus() == ["NVIDIA H200, 143771 MiB, driver 570.1"]


def test_gpus_with_a_torch_for_cpu_are_a_problem():
    import torch

    if torch.version.cuda is not None:
        pytest.skip("this torch is built for CUDA")
    assert "make install ACCELERATOR=cuda" in doctor._cuda_in_torch(1).problem
