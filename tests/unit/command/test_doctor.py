import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from dlrm.command import doctor
from dlrm.command.doctor import Line
from dlrm.distributed.versions import Installed

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


def test_a_failed_trial_is_repeated_at_the_end_with_its_hint(monkeypatch, capsys):
    monkeypatch.setattr(doctor, "trials", lambda gpus: [Line("gloo collectives", "fail", "timed out; name a network")])
    monkeypatch.setattr(doctor, "machine", lambda gpus: [])
    assert doctor.run() == 2
    assert capsys.readouterr().out.splitlines()[-1] == "  gloo collectives: timed out; name a network"


def test_kernels_and_collectives_are_tried_for_real():
    lines = list(doctor.trials([]))
    assert [line.topic for line in lines] == ["fused cpu kernels", "compiled loops", "gloo collectives"]
    assert [line.problem for line in lines] == ["", "", ""]
    assert lines[1].text == f"work, kept in {ROOT / 'dlrm' / '__pycache__'}"


def test_a_trial_that_crashes_or_fails_gives_its_last_line():
    assert doctor._try([["kernels", "nonsense"]])[0] != ""


def test_gpus_are_listed_as_nvidia_smi_says(monkeypatch, tmp_path):
    fake = tmp_path / "nvidia-smi"
    fake.write_text("#!/bin/sh\necho 'NVIDIA H200, 143771 MiB, 570.1'\n")
    fake.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    assert doctor.nvidia_gpus() == ["NVIDIA H200, 143771 MiB, driver 570.1"]


# Machines with GPUs

FOR_CUDA = Installed("2.13.0", {"fbgemm-gpu": "1.8.0"}, "1.8.0")
FOR_CPU = Installed("2.13.0+cpu", {"fbgemm-gpu-cpu": "1.8.0"}, "1.8.0")


@pytest.fixture
def probes(monkeypatch):
    """torch that is built for CUDA and sees two GPUs; probes that fail as the test says."""
    failing = {}
    torch_says = subprocess.CompletedProcess([], 0, "13.0 2\n", "")
    monkeypatch.setattr(doctor.subprocess, "run", lambda *_, **__: torch_says)
    monkeypatch.setattr(doctor, "_compiled_loops", lambda: Line("compiled loops", "work"))
    monkeypatch.setattr(doctor, "_try", lambda commands: (failing.get(commands[0][0], ""), 0.1))
    return failing


def lines_with(monkeypatch, installed):
    monkeypatch.setattr(Installed, "here", lambda: installed)
    return {line.topic: line for line in doctor.trials(["H100", "H100"])}


def test_gpus_that_work_are_tried_by_kernels_and_collectives(monkeypatch, probes):
    monkeypatch.setattr(doctor.versions, "DRIVER_LIBRARY", "libc.so.6")
    lines = lines_with(monkeypatch, FOR_CUDA)
    assert list(lines) == [
        *("torch on CUDA", "fused cpu kernels", "fused cuda kernels", "compiled loops"),
        *("gloo collectives", "nccl collectives"),
    ]
    assert not any(line.problem for line in lines.values())


def test_gpus_with_a_torch_for_cpu_are_one_problem_with_the_hint(monkeypatch, probes):
    lines = lines_with(monkeypatch, FOR_CPU)
    assert [line.problem for line in lines.values() if line.problem] == [
        "torch is built for CPU, but there are GPUs; run `make install ACCELERATOR=cuda`"
    ]


def test_what_keeps_cuda_from_starting_is_said_once_as_a_job_would_say_it(monkeypatch, probes):
    probes["cuda"] = "CUDA does not start: the driver is too old; update the NVIDIA driver"
    monkeypatch.setattr(doctor.versions, "DRIVER_LIBRARY", "libc.so.6")
    lines = lines_with(monkeypatch, FOR_CUDA)
    assert [line.problem for line in lines.values() if line.problem] == [probes["cuda"]]


def test_fbgemm_for_cuda_without_a_driver_is_told_where_packages_are(monkeypatch):
    monkeypatch.setattr(doctor.versions, "DRIVER_LIBRARY", "libnvidia-ml.so.0")
    monkeypatch.setattr(Installed, "here", lambda: FOR_CUDA)
    line = next(line for line in doctor.packages() if line.topic == "libnvidia-ml.so.0")
    assert (line.text, line.problem) == ("missing", doctor.versions.driver_problem(FOR_CUDA))


def test_the_right_packages_that_do_not_work_are_to_be_installed_anew(monkeypatch, probes):
    probes["kernels"] = "undefined symbol"
    lines = lines_with(monkeypatch, FOR_CPU)
    assert lines["fused cpu kernels"].problem == "undefined symbol; remove .venv and run `make install`"


def test_loops_whose_machine_code_cannot_be_kept_are_no_problem_but_told(monkeypatch, tmp_path):
    (tmp_path / "a_file").write_text("")
    package = tmp_path / "dlrm"
    package.mkdir()
    for name in ("__init__.py", "compiled.py"):
        (package / name).write_text((ROOT / "dlrm" / name).read_text())
    (package / "data").mkdir()
    for name in ("__init__.py", "permutation.py"):
        (package / "data" / name).write_text((ROOT / "dlrm" / "data" / name).read_text())
    (package / "counter_rng.py").write_text((ROOT / "dlrm" / "counter_rng.py").read_text())
    for place in (package, package / "data"):
        (place / "__pycache__").write_text("in the way")
    monkeypatch.setattr(doctor, "_environment", lambda: {**os.environ, "PYTHONPATH": str(tmp_path)})
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "a_file"))
    monkeypatch.chdir(tmp_path)
    line = doctor._compiled_loops()
    assert line.problem == ""
    assert line.text.startswith("work; each process compiles them, as ")


def test_a_machine_without_a_folder_for_temporary_files_is_told_and_tried_all_the_same(monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", None)
    monkeypatch.setattr(tempfile, "_candidate_tempdir_list", lambda: ["/nowhere"])
    line = doctor._temporary_files()
    assert line.problem.endswith("name one that can be written: TMPDIR=/dev/shm, say")
    with doctor._temporary_folder() as folder:
        assert Path(folder).parent == Path("/dev/shm")
    assert doctor._environment()["TMPDIR"] == "/dev/shm"
