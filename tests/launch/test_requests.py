"""What `torchx run` would hand to a cluster, read as text, with the reason for each line that matters."""

import os
import re
import subprocess
import sys

import pytest
import yaml
from torchx.runner import get_runner
from torchx.schedulers import kubernetes_scheduler
from torchx.schedulers.slurm_scheduler import SlurmScheduler
from torchx.specs import AppState, RetryPolicy

from tests.launch.kubernetes_schemas import complaints, complaints_of_volcano, pod_of
from tests.launch.launching import ROOT

sys.path.insert(0, str(ROOT / "launch"))

import torchx_gaps

SECRET = "s" * 64
JOB = ("-j", "2x8", "--config", "configs/criteo_terabyte_dcnv2.yaml", "--image", "registry.example.com/dlrm:1")
ON_CLAIM = ("--mounts", "type=volume,src=dlrm,dst=/shared", "--run_dir", "/shared/runs")
WORDS = ("--env", "NCCL_IB_HCA=mlx5_0,mlx5_1", "--", "--data.path", "/shared/packed")


def dry_run(scheduler, *arguments, cfg=()):
    """What `torchx run --dryrun` prints as the request, from the command line on."""
    command = [
        sys.executable,
        "-m",
        "torchx.cli.main",
        "--log_level",
        "ERROR",
        "run",
        "-s",
        scheduler,
        *cfg,
        "--dryrun",
    ]
    done = subprocess.run(
        [*command, "components/dlrm.py:train", *arguments],
        cwd=ROOT,
        env={**os.environ, "DLRM_JOB_SECRET": SECRET, "HOME": "/nowhere"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.partition("=== SCHEDULER REQUEST ===\n")[2]


@pytest.fixture(scope="module")
def volcano():
    pytest.importorskip("kubernetes", reason="the package kubernetes is not installed")
    return dry_run("kubernetes", *JOB, *ON_CLAIM, *WORDS, cfg=["-cfg", "namespace=ml,queue=gpu,service_account=dlrm"])


@pytest.fixture(scope="module")
def task(volcano):
    """The second of the two hosts as text."""
    return yaml.dump(yaml.safe_load(volcano)["spec"]["tasks"][1])


def test_volcano_and_kubernetes_take_the_request(volcano):
    job = yaml.safe_load(volcano)
    for task in job["spec"]["tasks"]:
        assert complaints(pod_of(task["template"])) == []
    assert complaints_of_volcano(job) == []


def test_volcano_starts_all_pods_together_and_again_together(volcano, task):
    job = yaml.safe_load(volcano)["spec"]
    assert (job["queue"], job["schedulerName"], len(job["tasks"])) == ("gpu", "volcano", 2)
    # Pods find the first one by a name that exists before it is ready: the launchers wait for it.
    assert job["plugins"]["svc"] == ["--publish-not-ready-addresses"]
    assert job["maxRetry"] == 3  # of the component's max_retries
    # In this order: what the user has to mend (exit code 2) ends the job; what else ends a pod starts all of them again.
    assert (
        "policies:\n- action: TerminateJob\n  exitCode: 2\n"
        "- action: RestartJob\n  event: PodEvicted\n- action: RestartJob\n  event: PodFailed\n"
    ) in task


def test_a_pod_runs_the_launcher_of_the_image(task):
    assert "image: registry.example.com/dlrm:1\n" in task
    (command,) = re.findall(r"- -c\n    +- (.*?)\n +env:", task, re.DOTALL)
    assert " ".join(command.split()) == (
        # the image's python, not the client's; values with commas are whole
        "exec env NCCL_IB_HCA=mlx5_0,mlx5_1 python launch/elastic.py --nproc-per-node 8 --max-restarts 3 "
        # The first pod's name comes from Volcano, the port from the job's id, which Volcano keeps when it restarts it.
        f"--nnodes 2 --rdzv-backend c10d --rdzv-id {name_in(task)} --rdzv-endpoint ${{VC_TRAIN_0_HOSTS:-localhost}} "
        # Started again, the job goes on in its own run folder, which is on the claim.
        "dlrm_main.py train --config configs/criteo_terabyte_dcnv2.yaml --resume job --run.dir=/shared/runs "
        "--data.path /shared/packed"
    )


def name_in(task):
    return re.search(r"kubernetes://torchx/(\S+)", task)[1]


def test_a_pod_knows_its_job_and_nothing_of_the_client(task):
    (container,) = yaml.safe_load(task)["template"]["spec"]["containers"]
    assert {each["name"]: each["value"] for each in container["env"]} == {
        "DLRM_JOB_SECRET": SECRET,  # by which launchers know each other
        "TORCHX_JOB_ID": f"kubernetes://torchx/{name_in(task)}",  # what --resume job goes by
    }
    assert sys.executable not in task
    assert str(ROOT) not in task


def test_a_pod_gets_what_its_ranks_need(task):
    limits, requests = (
        yaml.safe_load(task)["template"]["spec"]["containers"][0]["resources"][n] for n in ("limits", "requests")
    )
    assert limits == {"cpu": "32000m", "memory": "131072M", "nvidia.com/gpu": "8"}
    # A little less than the limits, so that a pod of a whole host's size fits on the host beside Kubernetes' own.
    assert requests == {"cpu": "31900m", "memory": "130048M", "nvidia.com/gpu": "8"}


def test_runs_outlive_the_pod_and_ranks_have_shared_memory(task):
    assert "volumeMounts:\n" in task
    assert "- mountPath: /dev/shm\n" in task  # 64 MiB otherwise, and ranks exchange batches there
    assert "- emptyDir:\n        medium: Memory\n      name: dshm\n" in task
    assert "- mountPath: /shared\n" in task
    assert "persistentVolumeClaim:\n        claimName: dlrm\n" in task
    assert "serviceAccountName: dlrm\n" in task
    assert "restartPolicy: Never\n" in task  # a pod that is started again alone would wait for the others


def test_volcano_starts_a_job_with_the_fewest_hosts_and_adds_the_others():
    pytest.importorskip("kubernetes", reason="the package kubernetes is not installed")
    text = dry_run("kubernetes", "-j", "2:4x8", *JOB[2:], *ON_CLAIM)
    assert [task["minAvailable"] for task in yaml.safe_load(text)["spec"]["tasks"]] == [1, 1, 0, 0]
    assert " --nnodes 2:4 " in " ".join(text.split())


def test_a_policy_is_added_once_however_often_a_component_is_called(monkeypatch):
    kept = dict(kubernetes_scheduler.RETRY_POLICIES)
    monkeypatch.setattr(kubernetes_scheduler, "RETRY_POLICIES", kept)
    for _ in range(2):
        torchx_gaps.fill("kubernetes")
    policies = kept[RetryPolicy.APPLICATION]
    assert [policy.get("exitCode", policy.get("event")) for policy in policies] == [2, "PodEvicted", "PodFailed"]


@pytest.fixture
def squeue(monkeypatch, tmp_path):
    """Slurm's commands where there is no accounting; what squeue prints is to be written into the file."""
    monkeypatch.setattr(SlurmScheduler, "describe", SlurmScheduler.describe)  # restored afterwards
    for name, script in (("sacct", "exit 1"), ("squeue", f"cat {tmp_path}/answer || exit 1")):
        (tmp_path / name).write_text(f"#!/bin/sh\n{script}\n")
        (tmp_path / name).chmod(0o700)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    return tmp_path / "answer"


def test_without_accounting_torchx_run_asks_squeue_for_the_state_of_the_job(squeue, monkeypatch):
    own = getattr(SlurmScheduler.describe, "__wrapped__", SlurmScheduler.describe)  # another test may have filled it
    monkeypatch.setattr(SlurmScheduler, "describe", own)
    scheduler = SlurmScheduler("test")
    with pytest.raises(subprocess.CalledProcessError):  # torchx 0.7.0 alone, after the job was submitted
        scheduler.describe("7")
    torchx_gaps.fill("slurm")
    torchx_gaps.fill("slurm")
    squeue.write_text("PENDING\nPENDING\n")  # a line a host
    assert scheduler.describe("7").state == AppState.PENDING
    squeue.write_text("COMPLETED\n")
    assert scheduler.describe("7").state == AppState.SUCCEEDED
    squeue.unlink()
    assert scheduler.describe("7") is None  # Slurm has forgotten it


@pytest.fixture
def aws(monkeypatch):
    """AWS Batch as moto has it, without Docker, with a queue; its client."""
    import boto3
    from moto import mock_aws

    for name, value in (
        ("AWS_ACCESS_KEY_ID", "t"),
        ("AWS_SECRET_ACCESS_KEY", "t"),
        ("AWS_DEFAULT_REGION", "us-east-1"),
    ):
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("DLRM_JOB_SECRET", SECRET)
    monkeypatch.chdir(ROOT)
    with mock_aws(config={"batch": {"use_docker": False}}):
        role = boto3.client("iam").create_role(RoleName="batch", AssumeRolePolicyDocument="{}")["Role"]["Arn"]
        batch = boto3.client("batch")
        hosts = {"computeEnvironmentName": "hosts", "type": "UNMANAGED", "serviceRole": role}
        environment = batch.create_compute_environment(**hosts)["computeEnvironmentArn"]
        order = [{"order": 1, "computeEnvironment": environment}]
        batch.create_job_queue(jobQueueName="gpu", state="ENABLED", priority=1, computeEnvironmentOrder=order)
        yield batch


ON_EFS = ("--mounts", "type=volume,src=fs-1,dst=/shared", "--run_dir", "/shared/runs")


@pytest.mark.filterwarnings("ignore:Cannot determine resource instance type")
def test_aws_batch_takes_the_job(aws):
    """botocore checks the request against the service's model; moto answers as the service."""
    with get_runner() as runner:
        job = runner.run_component("components/dlrm.py:train", [*JOB, *ON_EFS, *WORDS], "aws_batch", {"queue": "gpu"})
        assert job.startswith("aws_batch://torchx/gpu:dlrm-")
        assert runner.status(job).state in (AppState.PENDING, AppState.RUNNING, AppState.SUCCEEDED)
    (definition,) = aws.describe_job_definitions()["jobDefinitions"]
    assert definition["type"] == "multinode"
    assert definition["retryStrategy"]["attempts"] == 3


@pytest.fixture(scope="module")
def batch():
    return dry_run("aws_batch", *JOB, *ON_EFS, *WORDS, "--train.epochs", "1", cfg=["-cfg", "queue=gpu"])


def test_aws_batch_gives_both_hosts_together_and_the_first_ones_address_to_the_other(batch):
    assert "numNodes: 2\n" in batch
    assert "mainNode: 0\n" in batch
    assert "targetNodes: 0:1\n" in batch
    command = " ".join(batch.split())
    assert "--rdzv-endpoint ${AWS_BATCH_JOB_MAIN_NODE_PRIVATE_IPV4_ADDRESS:-localhost} dlrm_main.py train" in command


def test_aws_batch_starts_the_job_again_unless_it_is_done_or_has_to_be_mended(batch):
    retries = yaml.safe_load(batch)["job_def"]["retryStrategy"]
    assert retries == {
        "attempts": 3,
        # What no rule names is tried again; what the user has to mend (exit code 2) is not.
        "evaluateOnExit": [{"onExitCode": "0", "action": "EXIT"}, {"onExitCode": "2", "action": "EXIT"}],
    }


def test_aws_batch_gives_a_host_what_its_ranks_need(batch):
    (hosts,) = yaml.safe_load(batch)["job_def"]["nodeProperties"]["nodeRangeProperties"]
    container = hosts["container"]
    assert container["image"] == "registry.example.com/dlrm:1"
    needs = {each["type"]: each["value"] for each in container["resourceRequirements"]}
    assert needs == {"VCPU": "32", "MEMORY": "131072", "GPU": "8"}
    assert container["linuxParameters"]["sharedMemorySize"] == 131072  # 64 MiB otherwise
    assert container["volumes"] == [{"name": "mount_0", "efsVolumeConfiguration": {"fileSystemId": "fs-1"}}]
    assert container["mountPoints"] == [{"sourceVolume": "mount_0", "containerPath": "/shared", "readOnly": False}]
    assert container["privileged"] is False
    environment = {each["name"]: each["value"] for each in container["environment"]}
    assert environment["DLRM_JOB_SECRET"] == SECRET
    assert "DLRM_CLIENT" not in environment
    assert sys.executable not in batch


@pytest.fixture(scope="module")
def slurm():
    return dry_run(
        "slurm", *JOB[:4], "--run_dir", "/shared/runs", *WORDS, cfg=["-cfg", "partition=gpu,time=1-00:00:00"]
    )


def test_slurm_gets_a_part_of_the_job_for_each_host_with_what_its_ranks_need(slurm):
    parts = re.findall(r"^#SBATCH (.*)$", slurm, re.MULTILINE)
    assert [part for part in parts if part != "hetjob"] == [
        # One task a host: the launcher. Slurm may start the job again: after a lost host, preemption, when it is asked to.
        f"--job-name=train-{host} --requeue --partition=gpu --time=1-00:00:00 --ntasks-per-node=1 --cpus-per-task=32 "
        "--mem=131072 --gpus-per-task=8"
        for host in range(2)
    ]
    assert parts.count("hetjob") == 1


def test_slurm_ends_all_hosts_when_one_fails_and_the_script_queues_the_job_again(slurm):
    assert slurm.count("--kill-on-bad-exit=1") == 2
    assert "export TORCHX_MAX_RETRIES=3\n" in slurm
    assert 'scontrol requeue "$SLURM_JOB_ID"\n' in slurm  # the launchers forbid it after exit code 2
    assert slurm.count('--output=slurm-"$SLURM_JOB_ID"-train-') == 2


def test_slurm_starts_launchers_of_the_checkout_that_meet_on_the_first_host(slurm):
    command = " ".join(slurm.split())
    # The user's variables travel in the submitter's environment: --export would cut them, and the script is printed.
    assert "NCCL_IB_HCA" not in command
    assert "command -v .venv/bin/python || command -v python3" in command  # of the host, whatever the client runs with
    assert "--rdzv-endpoint ${SLURM_JOB_NODELIST_HET_GROUP_0:-localhost} dlrm_main.py train" in command
    assert "--resume job --run.dir=/shared/runs --data.path /shared/packed" in command
    assert sys.executable not in slurm
    assert SECRET not in slurm  # the script is printed and kept; the secret travels in the submitter's environment


def test_ray_gets_an_actor_for_each_host():
    pytest.importorskip("ray", reason="the package ray is not installed")
    text = dry_run("ray", "-j", "2:3x8", *JOB[2:4], "--run_dir", "/shared/runs", cfg=["--workspace", "."])
    assert text.count("RayActor(") == 3
    assert text.count("num_cpus=32, num_gpus=8, min_replicas=2)") == 3  # Ray begins with two
    assert "launch/elastic.py --nproc-per-node 8 --max-restarts 3 --nnodes 2:3 " in " ".join(text.split())
    assert "${TORCHX_RANK0_HOST:-localhost}" in text
    assert sys.executable not in text
