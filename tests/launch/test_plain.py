"""The files for those who want no torchx, read as text, with the reason for each line that matters."""

import os
import re
import signal
import subprocess
import sys

import pytest
import yaml

from tests.launch.kubernetes_schemas import complaints
from tests.launch.launching import ROOT

sys.path.insert(0, str(ROOT / "launch"))

from elastic import USER_ERROR_EXIT_CODE
from scheduler import GRACE_VARIABLE

SBATCH = ROOT / "launch" / "slurm.sbatch"
MANIFESTS = ["job", "jobset"]


def manifest(name):
    """The objects in a file by their kind."""
    return {each["kind"]: each for each in yaml.safe_load_all((ROOT / f"launch/kubernetes/{name}.yaml").read_text())}


def job_of(name):
    """What the file says of the Job, for a JobSet that of its hosts."""
    objects = manifest(name)
    if "JobSet" not in objects:
        return objects["Job"]["spec"]
    (hosts,) = objects["JobSet"]["spec"]["replicatedJobs"]
    return hosts["template"]["spec"]


def container_of(name):
    (container,) = job_of(name)["template"]["spec"]["containers"]
    return container


@pytest.mark.parametrize("name", MANIFESTS)
def test_kubernetes_knows_every_field_of_the_manifests(name):
    for each in manifest(name).values():
        if each["kind"] != "JobSet":
            assert complaints(each) == []
    job = {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "x"}, "spec": job_of(name)}
    assert complaints(job) == []


@pytest.mark.parametrize("name", MANIFESTS)
def test_hosts_agree_on_their_number_and_find_the_first_by_name(name):
    job, args = job_of(name), container_of(name)["args"]
    assert job["completionMode"] == "Indexed"  # gives pods names
    assert job["parallelism"] == job["completions"] == 2
    assert "--nnodes=2" in args
    first = {"job": "dlrm-0.dlrm", "jobset": "dlrm-host-0-0.dlrm"}[name]
    assert f"--rdzv-endpoint={first}:29500" in args
    # Names are there before pods are ready, because the first waits for the others as they do for it.
    if name == "job":
        service = manifest(name)["Service"]
        assert service["spec"]["clusterIP"] == "None"
        assert service["spec"]["publishNotReadyAddresses"] is True
        assert job["template"]["spec"]["subdomain"] == service["metadata"]["name"] == "dlrm"
    else:
        network = manifest(name)["JobSet"]["spec"]["network"]
        assert network == {"enableDNSHostnames": True, "subdomain": "dlrm", "publishNotReadyAddresses": True}


@pytest.mark.parametrize("name", MANIFESTS)
def test_a_pod_gets_as_many_gpus_as_it_starts_ranks(name):
    container = container_of(name)
    assert f"--nproc-per-node={container['resources']['limits']['nvidia.com/gpu']}" in container["args"]


@pytest.mark.parametrize(
    ("name", "label"), [("job", "batch.kubernetes.io/controller-uid"), ("jobset", "jobset.sigs.k8s.io/jobset-uid")]
)
def test_a_job_is_known_by_an_id_that_its_restarts_share_and_another_of_its_name_does_not(name, label):
    environment = {each["name"]: each for each in container_of(name)["env"]}
    path = environment["DLRM_JOB_ID"]["valueFrom"]["fieldRef"]["fieldPath"]
    assert path == f"metadata.labels['{label}']"
    assert "--rdzv-id=$(DLRM_JOB_ID)" in container_of(name)["args"]
    assert "--resume=job" in container_of(name)["args"]
    assert environment["DLRM_JOB_SECRET"]["valueFrom"]["secretKeyRef"] == {"name": "dlrm", "key": "secret"}


@pytest.mark.parametrize("name", MANIFESTS)
def test_a_pod_that_is_to_end_has_the_time_that_its_launcher_counts_on(name):
    environment = {each["name"]: each.get("value") for each in container_of(name)["env"]}
    assert (
        environment[GRACE_VARIABLE] == str(job_of(name)["template"]["spec"]["terminationGracePeriodSeconds"]) == "300"
    )


@pytest.mark.parametrize("name", MANIFESTS)
def test_a_mistake_ends_the_job_and_a_drained_host_does_not(name):
    mistake, disruption, told = job_of(name)["podFailurePolicy"]["rules"]  # the first that fits counts
    codes = {"containerName": container_of(name)["name"], "operator": "In"}
    assert mistake == {"action": "FailJob", "onExitCodes": {**codes, "values": [USER_ERROR_EXIT_CODE]}}
    # The pods of other hosts, whose launchers say that one was told to stop, and end as it does.
    assert told == {"action": "Ignore", "onExitCodes": {**codes, "values": [128 + signal.SIGTERM]}}
    assert disruption == {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]}
    assert job_of(name)["template"]["spec"]["restartPolicy"] == "Never"  # which Kubernetes asks for with such rules
    if name == "jobset":
        policy = manifest(name)["JobSet"]["spec"]["failurePolicy"]
        assert policy["maxRestarts"] == 3
        assert policy["rules"] == [
            {"name": "mistake", "action": "FailJobSet", "onJobFailureReasons": ["PodFailurePolicy"]}
        ]
        assert job_of(name)["backoffLimit"] == 0  # so that all pods are started again, not one
    else:
        assert job_of(name)["backoffLimit"] == 3 * job_of(name)["completions"]


@pytest.mark.parametrize("name", MANIFESTS)
def test_runs_outlive_pods_and_pods_are_not_root(name):
    pod, container = job_of(name)["template"]["spec"], container_of(name)
    (run_dir,) = (word.partition("=")[2] for word in container["args"] if word.startswith("--run.dir="))
    mounts = {each["mountPath"]: each["name"] for each in container["volumeMounts"]}
    volumes = {each["name"]: each for each in pod["volumes"]}
    assert run_dir == "/shared/runs"
    assert volumes[mounts["/shared"]]["persistentVolumeClaim"] == {"claimName": "dlrm"}
    assert volumes[mounts["/dev/shm"]]["emptyDir"] == {"medium": "Memory"}  # 64 MiB otherwise
    # The image's user by its number, which Kubernetes can judge; group 0, to which what the user writes to belongs.
    user = pod["securityContext"]
    assert (user["runAsNonRoot"], user["runAsUser"], user["runAsGroup"], user["fsGroup"]) == (True, 1000, 0, 0)
    assert container["securityContext"] == {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}


def test_the_plain_batch_script_asks_for_one_launcher_a_host_a_signal_before_the_end_and_to_be_queued_again():
    options = re.findall(r"^#SBATCH (.*)$", SBATCH.read_text(), re.MULTILINE)
    assert options == [
        "--job-name=dlrm",
        "--nodes=2",
        "--ntasks-per-node=1",
        "--cpus-per-task=4",  # Slurm gives one core where nothing is said
        "--mem-per-cpu=4G",
        "--output=slurm-%j.out",
        "--open-mode=append",  # an attempt does not write over what the one before has said
        "--requeue",  # after a lost node or preemption, and when the launcher asks for it
        "--signal=USR1@300",  # to the launchers, not (B:) this script: they save, and have the job queued again
    ]


@pytest.fixture
def slurm(tmp_path):
    """Runs the batch script in a checkout where srun and scontrol write down how they are called; what they did."""
    for name, script in (("srun", "exit ${SRUN_EXIT:-0}"), ("scontrol", "echo n1; echo n2")):
        (tmp_path / name).write_text(f'#!/bin/sh\necho "{name} $*" >> {tmp_path}/calls\n{script}\n')
        (tmp_path / name).chmod(0o700)

    def run(*arguments, **environment):
        given = {"SLURM_JOB_ID": "7", "SLURM_JOB_NODELIST": "n[1-2]", "SLURM_JOB_NUM_NODES": "2", **environment}
        path = f"{tmp_path}{os.pathsep}{os.environ['PATH']}"
        done = subprocess.run(
            ["bash", str(SBATCH), *arguments], cwd=ROOT, env={"PATH": path, **given}, capture_output=True, text=True
        )
        calls = tmp_path / "calls"
        made = calls.read_text().splitlines() if calls.exists() else []
        calls.unlink(missing_ok=True)
        return done, [call for call in made if not call.startswith("scontrol show hostnames")]

    return run


def test_the_plain_batch_script_starts_launchers_that_meet_on_the_first_host(slurm):
    done, calls = slurm("a b.yaml", "--run.dir", "/shared/runs", SLURM_GPUS_ON_NODE="8")
    assert (done.returncode, done.stderr) == (0, "")
    assert calls == [
        "srun --kill-on-bad-exit=1 --wait=60 --label .venv/bin/python launch/elastic.py "
        # The launcher makes the port from the job's id, so that two jobs on a host do not meet.
        "--nnodes 2 --nproc-per-node 8 --max-restarts 3 --rdzv-backend c10d --rdzv-id 7 --rdzv-endpoint n1 "
        "dlrm_main.py train --config a b.yaml --resume job --run.dir /shared/runs"
    ]


@pytest.mark.parametrize(
    ("code", "restarts", "queued"),
    [("0", "0", False), ("1", "0", True), ("1", "2", True), ("1", "3", False), ("2", "0", False), ("137", "", True)],
)
def test_the_plain_batch_script_is_queued_again_unless_it_is_done_or_has_to_be_mended(slurm, code, restarts, queued):
    done, calls = slurm("a.yaml", SRUN_EXIT=code, SLURM_RESTART_COUNT=restarts or "0")
    assert done.returncode == int(code)
    assert ("scontrol requeue 7" in calls) == queued
    assert ("the job is queued again" in done.stderr) == queued


def test_the_plain_batch_script_says_how_it_is_used(slurm):
    done, calls = slurm()
    assert (done.returncode, calls) == (2, [])
    assert done.stderr == (
        "slurm.sbatch: submit it in the checkout, with a YAML file: sbatch launch/slurm.sbatch CONFIG [option ...]\n"
    )


def test_what_a_user_of_slurm_sets_once_can_be_sourced_and_sets_nothing_by_itself():
    """A signal or a requeue would hold for every other job of that shell as well."""

    def sourced(text):
        script = f"set -eu; {text} source /dev/stdin; env"
        lines = (ROOT / "launch" / "slurm.env").read_text()
        lines = lines.replace("# export", "export") if text else lines
        words = {"cwd": ROOT, "env": {"PATH": os.environ["PATH"]}, "capture_output": True, "text": True}
        done = subprocess.run(["bash", "-c", script], input=lines, **words)
        return dict(line.split("=", 1) for line in done.stdout.splitlines() if line.startswith("SBATCH_"))

    assert sourced("") == {}
    assert sourced(":;").keys() == {
        *("SBATCH_ACCOUNT", "SBATCH_QOS", "SBATCH_PARTITION", "SBATCH_TIMELIMIT", "SBATCH_SIGNAL")
    }
