import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from torchx import specs

from tests.launch.launching import ROOT

sys.path.insert(0, str(ROOT / "launch"))

import preflight
import preflight_cluster
import preflight_paths
import torchx_cli
from torchx_cli import Submission, submission
from trainer_options import read_options

GPUS_8 = specs.Resource(cpu=32, gpu=8, memMB=1000)
CLAIM = specs.VolumeMount(src="claim", dst_path="/shared")


@pytest.fixture(autouse=True)
def able(monkeypatch, tmp_path):
    """A machine on which every scheduler's client is there and answers."""
    monkeypatch.setattr(preflight_cluster, "_package_fault", lambda scheduler: ())
    for name in ("sbatch", "sinfo", "sacct"):
        program(tmp_path / "bin" / name)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}")
    program(tmp_path / "kubeconfig")
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "kubeconfig"))
    monkeypatch.setattr(preflight_cluster, "_ray", lambda request: ())
    monkeypatch.setattr(preflight_paths, "file_system", lambda path: "nfs4")
    for name in ("AWS_DEFAULT_REGION", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "test")
    monkeypatch.chdir(ROOT)


def program(path, script="exit 0"):
    path.parent.mkdir(exist_ok=True)
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(stat.S_IRWXU)


def request(scheduler="", *, workspace="", cfg=None, **given):
    submitted = Submission(scheduler, cfg or {}, workspace)
    return preflight.Request(submission=submitted, **{"resource": GPUS_8, "ranks_per_host": 8, **given})


def in_container(scheduler="kubernetes", **given):
    return request(scheduler, **{"image": "dlrm:1", "mounts": [CLAIM], "run_dir": "/shared/runs", **given})


FINE = {
    "slurm": {"hosts": (2, 2), "run_dir": "/shared/runs"},
    "kubernetes": {"hosts": (2, 2), "image": "dlrm:1", "mounts": [CLAIM], "run_dir": "/shared/runs"},
    "aws_batch": {"hosts": (2, 2), "image": "dlrm:1", "mounts": [CLAIM], "run_dir": "/shared/runs"},
    "ray": {"hosts": (1, 2), "run_dir": "/shared/runs", "workspace": "."},
    "local_cwd": {},
    "": {"hosts": (2, 2)},
}


@pytest.mark.parametrize("scheduler", FINE)
def test_of_a_job_that_can_work_nothing_is_said(scheduler):
    asked = request(scheduler, config="configs/quickstart.yaml", **FINE[scheduler])
    assert preflight.faults(asked) == []
    assert preflight.warnings(asked) == []


@pytest.mark.parametrize(
    ("resource", "words", "line"),
    [
        ((32, 4), [], "8 ranks on a host of 4 GPUs: each needs one; ask for 8 (--gpu) or fewer ranks (-j)"),
        ((4, 0), [], "8 ranks on a host of 4 cores: ask for 8 or more (--cpu), or fewer ranks (-j)"),
        (
            (32, 0),
            ["--distributed.device", "cuda"],
            "distributed.device is cuda, and no GPU is asked for: give --gpu 8, or take another device",
        ),
    ],
)
def test_resources_that_do_not_fit_the_ranks(resource, words, line):
    cpu, gpu = resource
    asked = specs.Resource(cpu=cpu, gpu=gpu, memMB=1000)
    assert preflight.faults(request("slurm", resource=asked, script_args=words)) == [line]


def test_what_would_be_idle_is_a_warning():
    asked = request("slurm", ranks_per_host=4, script_args=["train.global_batch_size=2"])
    assert preflight.warnings(asked) == [
        "8 GPUs on a host of 4 ranks: 4 would do nothing (-j)",
        "train.global_batch_size 2 is less than the 4 ranks: some of them would have no samples",
    ]


@pytest.mark.parametrize("scheduler", ["slurm", "aws_batch"])
def test_hosts_that_may_be_fewer_need_a_scheduler_that_gives_fewer(scheduler):
    given = {**FINE[scheduler], "hosts": (2, 4)}
    (line,) = preflight.faults(request(scheduler, **given))
    assert line.startswith(f"{scheduler} starts a job with all of its hosts or not at all: give 4 hosts, not 2:4 (-j)")
    assert preflight.faults(in_container(hosts=(2, 4))) == []


def test_a_run_folder_on_a_disk_of_this_host_is_a_warning(monkeypatch):
    monkeypatch.setattr(preflight_paths, "file_system", lambda path: "ext4")
    (line,) = preflight.warnings(request("slurm", hosts=(2, 2), run_dir="/scratch/runs"))
    assert line.startswith("run.dir /scratch/runs is on a disk of this host (ext4)")
    (line,) = preflight.warnings(request("slurm", hosts=(2, 2)))  # where it is submitted, which is where it starts
    assert line.startswith("run.dir runs is on a disk of this host (ext4)")
    assert preflight.faults(request("slurm", hosts=(2, 2))) == []
    assert preflight.warnings(request("slurm", hosts=(1, 1), run_dir="/scratch/runs")) == []


def test_an_option_that_the_scheduler_does_not_have_is_named():
    """torchx passes over it, and the job goes to the default partition."""
    submitted = Submission("slurm", {}, unknown=("patition",), known=("partition", "time"))
    asked = preflight.Request(submission=submitted, resource=GPUS_8, ranks_per_host=8)
    assert preflight.faults(asked)[0] == "-cfg patition: slurm has no such option; partition, time"


def test_ranks_without_gpus_need_none():
    one_gpu = specs.Resource(cpu=32, gpu=1, memMB=1000)
    assert preflight.faults(request(resource=one_gpu, component="preprocess")) == []
    assert preflight.faults(request(resource=one_gpu, script_args=["--distributed.device", "cpu"])) == []


def test_the_kind_of_a_file_system_is_that_of_the_innermost_mount(monkeypatch):
    monkeypatch.undo()
    assert preflight_paths.file_system(Path("/proc/self")) == "proc"


@pytest.mark.parametrize(
    ("words", "name"),
    [
        (["--run.dir", "runs"], "run.dir"),
        (["data.path=packed"], "data.path"),
        (["checkpoint.dir=checkpoints"], "checkpoint.dir"),
        (["--data.paths", "[raw/day_0]"], "data.paths"),
        (["--resume", "runs/a"], "resume.checkpoint"),
    ],
)
def test_relative_paths_that_would_fall_into_a_copy_of_the_folder(words, name, tmp_path):
    cfg = {"job_dir": str(tmp_path / "job")}
    asked = request("slurm", workspace=".", cfg=cfg, script_args=["--run.dir=/shared", *words])
    (line,) = preflight.faults(asked)
    assert line.startswith(f"slurm: {name} ")
    assert f" is relative and would be looked for in the copy of this folder in {tmp_path}/job: " in line
    (line,) = preflight.faults(request("ray", workspace=".", script_args=["--run.dir=/shared", *words]))
    assert " would be looked for in Ray's copy of this folder: give an absolute path (" in line


def test_what_is_written_in_a_container_has_to_lie_on_a_mount():
    (line,) = preflight.faults(in_container(mounts=[]))
    assert line == (
        "kubernetes: run.dir /shared/runs lies on no mount (there are none) and would be gone with the container: give "
        "--mounts type=volume,src=CLAIM,dst=/shared and a path in it (--run_dir /shared/...)"
    )
    (line,) = preflight.faults(in_container("aws_batch", run_dir="/elsewhere"))
    assert "run.dir /elsewhere lies on no mount (the mounts are at /shared)" in line
    assert preflight.faults(in_container(mounts=[], script_args=["checkpoint.dir=s3://bucket/folder"])) == []
    (line,) = preflight.faults(in_container(script_args=["checkpoint.dir=/checkpoints"]))
    assert "checkpoint.dir /checkpoints lies on no mount" in line
    (line,) = preflight.faults(in_container(component="preprocess", script_args=["--output=/packed"]))
    assert "output /packed lies on no mount" in line


def test_exports_and_what_is_predicted_have_to_be_where_the_job_runs():
    words = ["--export=/shared/e", "--input=/shared/raw", "--output=scores.csv"]
    found = preflight.faults(in_container(component="predict", script_args=words))
    assert [line.partition(" is relative")[0] for line in found[:1]] == ["kubernetes: output scores.csv"]
    (line,) = preflight.faults(in_container(component="serve", script_args=["--models=a=/shared/a,b=exports/b"]))
    assert line.startswith("kubernetes: models exports/b is relative and would be looked for in a container")
    (line,) = preflight.faults(in_container(component="evaluate", script_args=["--path=runs/a"]))
    assert line.startswith("kubernetes: path runs/a is relative")


def test_a_checkpoint_to_go_on_from_has_to_be_where_all_hosts_see_it(tmp_path):
    assert preflight.faults(request("slurm", script_args=["--resume", str(tmp_path)])) == []
    (line,) = preflight.faults(request("slurm", script_args=["--resume", "/nowhere"]))
    assert line.startswith("resume.checkpoint /nowhere does not exist here: ")
    (line,) = preflight.faults(in_container(script_args=["--resume", "/runs/a"]))
    assert line.startswith("kubernetes: resume.checkpoint /runs/a lies on no mount")
    for word in ("none", "auto", "job", "s3://bucket/run"):
        assert preflight.faults(in_container(script_args=["--resume", word])) == []


@pytest.mark.parametrize("scheduler", ["kubernetes", "aws_batch", "local_docker"])
def test_containers_need_an_image(scheduler):
    (line,) = preflight.faults(in_container(scheduler, image=""))
    assert line.startswith(f"{scheduler}: no image: ")


def test_an_image_of_the_workspace_needs_docker_and_a_place_to_push_it_to(monkeypatch):
    monkeypatch.setenv("DOCKER_HOST", "unix:///nowhere/docker.sock")
    (line,) = preflight.faults(in_container(workspace="."))
    assert line.startswith("kubernetes: --workspace . has an image built here, and Docker does not answer (")
    monkeypatch.setattr(preflight_cluster, "_docker_fault", lambda: "")
    (line,) = preflight.faults(in_container(workspace="."))
    assert "it is not said where to push it: give image_repo (.torchxconfig, [kubernetes])" in line
    assert preflight.faults(in_container(workspace=".", cfg={"image_repo": "registry/dlrm"})) == []


@pytest.mark.parametrize(
    ("scheduler", "package"), [("kubernetes", "kubernetes"), ("aws_batch", "boto3"), ("ray", "ray")]
)
def test_a_package_of_the_scheduler_that_is_missing(monkeypatch, scheduler, package):
    monkeypatch.undo()
    monkeypatch.setattr(preflight_cluster.importlib.util, "find_spec", lambda name: None)
    lines = preflight.faults(in_container(scheduler))
    assert (
        f"{scheduler}: the Python package {package} is not installed where torchx runs: pip install {package}" in lines
    )


def test_slurm_without_client_controller_or_accounting(monkeypatch, tmp_path):
    program(tmp_path / "bin" / "sacct", "echo 'sacct: error: no slurmdbd' >&2; exit 1")
    (line,) = preflight.warnings(request("slurm"))
    assert line.startswith("Slurm's accounting does not answer (sacct: error: no slurmdbd): torchx status and ")
    program(tmp_path / "bin" / "sinfo", "echo 'slurm_load_partitions: refused' >&2; exit 1")
    (line,) = preflight.faults(request("slurm"))
    assert line.startswith("slurm: the controller does not answer (sinfo: slurm_load_partitions: refused)")
    program(tmp_path / "bin" / "sinfo", "echo main; echo urgent")
    (line,) = preflight.faults(request("slurm", cfg={"partition": "gpu"}))
    assert line == "slurm: no partition gpu; there are main, urgent (-cfg partition=)"
    assert preflight.faults(request("slurm", cfg={"partition": "main"})) == []
    monkeypatch.setenv("PATH", "/nowhere")
    (line,) = preflight.faults(request("slurm"))
    assert line.startswith("slurm: sbatch is not found: ")


@pytest.mark.parametrize(
    ("folder", "workspace", "problem"),
    [
        ("job", "", "is to hold a copy of this folder: give --workspace . as well"),
        ("", ".", "exists, and torchx makes it anew for each job"),
        ("a/job", ".", "cannot be made, because"),
    ],
)
def test_a_job_dir_is_a_new_folder_that_can_be_made(tmp_path, folder, workspace, problem):
    cfg = {"job_dir": str(tmp_path / folder)}
    (line,) = preflight.faults(request("slurm", workspace=workspace, cfg=cfg, run_dir="/shared"))
    assert problem in line


def test_kubernetes_and_aws_need_to_know_where_they_are(monkeypatch):
    monkeypatch.setenv("KUBECONFIG", "/nowhere/config")
    (line,) = preflight.faults(in_container())
    assert line == "kubernetes: no cluster is named here (/nowhere/config is no file): log in to one, or set KUBECONFIG"
    monkeypatch.delenv("AWS_DEFAULT_REGION")
    monkeypatch.setenv("AWS_CONFIG_FILE", "/nowhere/config")
    lines = preflight.faults(in_container("aws_batch", resource=specs.Resource(cpu=32, gpu=8, memMB=0)))
    assert [line.partition(":")[2].partition(",")[0] for line in lines] == [
        " no memory is asked for",
        " no AWS region: export AWS_DEFAULT_REGION",
    ]


def test_ray_needs_a_copy_of_the_folder_and_a_cluster_that_answers(monkeypatch):
    monkeypatch.undo()
    monkeypatch.setattr(preflight_cluster, "_package_fault", lambda scheduler: ())
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    first, second = preflight.faults(request("ray", cfg={"dashboard_address": "127.0.0.1:1"}, run_dir="/shared"))
    assert first.startswith("ray: the job runs in a copy of this folder: give --workspace .")
    assert second.startswith("ray: no dashboard answers at 127.0.0.1:1 (")


def test_a_configuration_that_is_not_there_is_said_before_a_host_finds_out():
    (line,) = preflight.faults(request("slurm", config="configs/nothing.yaml"))
    assert line == "--config configs/nothing.yaml: no such file; give the path of a YAML file"
    assert preflight.faults(in_container(config="configs/nothing.yaml")) == []  # the image may have it


def test_options_are_read_from_the_file_and_the_words_after_it(tmp_path):
    config = tmp_path / "a.yaml"
    config.write_text("run: {dir: here, name: a}\ndata: {path: x}\ntrain:\n  global_batch_size: 8\n")
    words = [
        "--run.dir",
        "there",
        "train.global_batch_size=16",
        "--resume=auto",
        "--run.overwrite",
        "--data.path",
        "y z",
    ]
    assert read_options(str(config), words) == {
        "run.dir": "there",
        "run.name": "a",
        "data.path": "y z",
        "train.global_batch_size": 16,
        "resume.checkpoint": "auto",
        "run.overwrite": True,
    }
    assert read_options("/nowhere", ["a.b=["]) == {"a.b": "["}


@pytest.mark.parametrize("program", ["/bin/torchx", "/site-packages/torchx/cli/main.py"])
def test_the_scheduler_and_its_settings_are_found_on_torchx_command_line(program, monkeypatch, tmp_path):
    config = tmp_path / "config"
    config.write_text("[cli:run]\nscheduler = local_cwd\nworkspace =\n[slurm]\npartition = gpu\ntime = None\n")
    monkeypatch.setenv("TORCHXCONFIG", str(config))
    words = ["--log_level=ERROR", "run", "-s", "slurm", "-cfg", "job_dir=/a,time=10", "--dryrun", "--workspace", "."]
    found = submission([program, *words, "c.py:train", "-j", "2", "--", "-s", "x"])
    assert found == Submission("slurm", {"job_dir": "/a", "time": "10", "partition": "gpu"}, ".", dryrun=True)
    assert submission([program, "run", "c.py:train"]) == Submission("local_cwd")
    assert submission([program, "run", "-s", "slurm", "-cfg", "patition=gpu,time=1", "c.py:train"]).unknown == (
        "patition",
    )
    assert submission([program, "status", "x"]) is None
    assert submission(["pytest", "run", "-s", "slurm"]) is None


def test_a_call_from_python_raises_the_lines(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["pytest"])
    small = specs.Resource(cpu=32, gpu=4, memMB=1000)
    with pytest.raises(ValueError, match=r"^8 ranks on a host of 4 GPUs: "):
        preflight.check(component="train", hosts=(1, 1), ranks_per_host=8, resource=small)


@pytest.mark.parametrize("dryrun", [False, True])
def test_under_torchx_run_the_lines_are_printed_and_the_exit_code_is_2(monkeypatch, capsys, dryrun):
    monkeypatch.setattr(torchx_cli.sys, "argv", ["torchx", "run", "-s", "slurm", *["--dryrun"] * dryrun, "c.py:train"])
    arguments = {"component": "train", "hosts": (2, 4), "ranks_per_host": 8, "resource": GPUS_8, "run_dir": "/shared"}
    if dryrun:
        preflight.check(**arguments)
        assert capsys.readouterr().err.startswith("without --dryrun this would be refused: slurm starts a job with ")
        return
    with pytest.raises(SystemExit) as ended:
        preflight.check(**arguments)
    assert ended.value.code == 2
    assert capsys.readouterr().err.startswith("slurm starts a job with all of its hosts or not at all: ")


def test_torchx_run_ends_with_one_line_a_fault_and_submits_nothing():
    words = ["run", "-s", "slurm", "components/dlrm.py:train", "-j", "2:4x8", "--gpu", "4", "--config", "a.yaml"]
    command = [sys.executable, "-m", "torchx.cli.main", "--log_level", "ERROR", *words]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (2, "")
    assert [line.partition(":")[0] for line in done.stderr.splitlines() if not line.startswith("warning: ")] == [
        "8 ranks on a host of 4 GPUs",
        "slurm starts a job with all of its hosts or not at all",
        "--config a.yaml",
    ]


def test_preflight_does_not_import_torch():
    script = (
        "import sys; sys.path.insert(0, 'launch'); sys.argv = ['torchx', 'run', '-s', 'slurm', '--dryrun', 'c.py:train']; "
        "import preflight; from torchx import specs; "
        "preflight.check(component='train', hosts=(2, 2), ranks_per_host=1, resource=specs.resource(cpu=1)); "
        "print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout == "False\n", done.stderr
