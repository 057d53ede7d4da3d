import ast
import os
import re
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from torchx import specs
from torchx.components.component_test_base import ComponentTestCase
from torchx.runner import get_runner
from torchx.specs.builders import materialize_appdef
from torchx.specs.finder import get_component

ROOT = Path(__file__).resolve().parents[2]
COMPONENT = str(ROOT / "components" / "dlrm.py")
COMPONENTS = ["train", "preprocess", "benchmark", "evaluate", "predict"]
NEEDED = {"evaluate": ["--checkpoint", "runs/a"], "serve": ["--models", "ads=/shared/a"]}
ON_HOST = '"$(command -v .venv/bin/python || command -v python3)"'


@pytest.fixture(autouse=True)
def no_client(monkeypatch):
    """Components are called as for a cluster, unless a test says otherwise."""
    monkeypatch.delenv("DLRM_CLIENT", raising=False)
    monkeypatch.delenv("DLRM_JOB_SECRET", raising=False)


def app(*arguments, component="train"):
    return materialize_appdef(get_component(f"{COMPONENT}:{component}").fn, list(arguments))


def role_of(*arguments, component="train"):
    (role,) = app(*NEEDED.get(component, ["--config", "a.yaml"]), *arguments, component=component).roles
    return role


def command(*arguments, component="train"):
    """What the shell of the first host runs, after torchx has put in what it knows."""
    values = specs.macros.Values(img_root="", app_id="dlrm-1", replica_id="0", rank0_env="TORCHX_RANK0_HOST")
    role = values.apply(role_of(*arguments, component=component))
    assert (role.entrypoint, role.args[0], len(role.args)) == ("bash", "-c", 2)
    return role.args[1]


def test_one_host_runs_the_launcher_with_a_free_port_and_passes_arguments_on():
    assert command("-j", "2", "--max_restarts", "3", "--", "--train.epochs", "2") == (
        f"exec {ON_HOST} launch/elastic.py --nproc-per-node 2 --max-restarts 3 --standalone --local-addr localhost "
        "dlrm_main.py train --config a.yaml --resume job --train.epochs 2"
    )


def test_several_hosts_meet_at_the_first_on_the_port_of_their_job():
    """The launcher makes the port from --rdzv-id, so that two jobs with the same first host do not meet."""
    assert command("-j", "2x8") == (
        f"exec {ON_HOST} launch/elastic.py --nproc-per-node 8 --max-restarts 3 --nnodes 2 --rdzv-backend c10d "
        "--rdzv-id dlrm-1 --rdzv-endpoint ${TORCHX_RANK0_HOST:-localhost} dlrm_main.py train --config a.yaml --resume job"
    )
    assert role_of("-j", "2x8").num_replicas == 2


def test_a_port_may_be_given():
    role = role_of("-j", "2x8", "--rdzv_port", "29501")
    assert role.port_map == {"c10d": 29501}
    assert ":-localhost}:29501 " in command("-j", "2x8", "--rdzv_port", "29501")


def test_hosts_may_die_and_join_between_the_fewest_and_the_most():
    assert (role_of("-j", "2:4x8").num_replicas, role_of("-j", "2:4x8").min_replicas) == (4, 2)
    assert role_of("-j", "2x8").min_replicas is None
    assert " --nproc-per-node 8 --max-restarts 1 --nnodes 2:4 " in command("-j", "2:4x8", "--max_restarts", "1")


@pytest.mark.parametrize("arguments", [["-j", "1"], ["-j", "2x1"]])
def test_dollar_signs_and_quotes_of_the_user_are_meant_literally(arguments):
    assert "'run.name=$app_id $(x)'" in command(*arguments, "--", "run.name=$app_id $(x)")
    assert " 'A=$HOME b' " in command(*arguments, "--env", "A=$HOME b")


def test_values_with_commas_reach_the_hosts():
    """Slurm's --export, into which torchx writes the environment of a role, cuts values at commas."""
    arguments = ["--env", "NCCL_IB_HCA=mlx5_0,mlx5_1,NCCL_DEBUG=INFO"]
    assert command(*arguments).startswith("exec env NCCL_IB_HCA=mlx5_0,mlx5_1 NCCL_DEBUG=INFO ")
    assert role_of(*arguments).env == {}


def test_resources_follow_from_the_ranks_of_a_host():
    """Without them Slurm gives a host one core, Kubernetes and AWS Batch get a request without limits."""
    resource = role_of("-j", "2x8").resource
    assert (resource.cpu, resource.gpu, resource.memMB) == (32, 8, 131072)
    resource = role_of("-j", "2x8", "--gpu", "0", "--cpu", "2").resource
    assert (resource.cpu, resource.gpu, resource.memMB) == (2, 0, 8192)
    resource = role_of("-j", "2x8", "-h", "aws_p4d.24xlarge", "--cpu", "2").resource
    assert (resource.cpu, resource.gpu) == (96, 8)
    resource = role_of("-j", "4x1", component="preprocess").resource
    assert (resource.cpu, resource.gpu, resource.memMB) == (4, 0, 16384)


def test_a_job_is_started_again_as_a_whole():
    role = role_of("-j", "2x8")
    assert (role.max_retries, role.retry_policy) == (3, specs.RetryPolicy.APPLICATION)
    assert role_of("--max_retries", "0").max_retries == 0


def test_an_image_brings_its_own_python_and_what_it_needs_is_mounted():
    arguments = ["--image", "dlrm:1", "--mounts", "type=volume,src=claim,dst=/data", "--run_dir", "/data/runs"]
    role = role_of(*arguments)
    assert (role.image, role.mounts) == ("dlrm:1", [specs.VolumeMount(src="claim", dst_path="/data")])
    assert command(*arguments).startswith("exec python launch/elastic.py ")
    assert " --resume job --run.dir=/data/runs" in command(*arguments)


def test_binding_and_folders_for_output_reach_the_launcher():
    assert " --numa-binding node --log-dir /shared/log --tee 3 " in command(
        "--numa", "node", "--log_dir", "/shared/log"
    )


def test_nothing_of_the_client_is_in_a_request_for_a_cluster():
    for arguments in (["-j", "2"], ["-j", "2x2"]):
        role = role_of(*arguments)
        assert sys.executable not in role.args[1]
        assert "DLRM_CLIENT" not in role.env


@pytest.mark.parametrize("scheduler", [["-s", "local_cwd"], []])  # the latter is .torchxconfig's
def test_a_local_job_runs_with_this_python_and_ends_with_its_client(monkeypatch, scheduler):
    words = ["/bin/torchx", "run", *scheduler, "components/dlrm.py:train"]
    monkeypatch.setattr(sys, "argv", words)
    assert command().startswith(f"exec {sys.executable} launch/elastic.py ")
    assert role_of().env["DLRM_CLIENT"].isdecimal()


@pytest.mark.parametrize("j", ["two", "4:2x1", "1:x2", "2x", "0", "0x1", "2x0", "2x2x2", "-1"])
def test_a_number_of_hosts_or_ranks_that_makes_no_sense_is_refused(j):
    with pytest.raises(ValueError, match=f"^-j {j}: "):
        app("--config", "a.yaml", f"-j={j}")


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["--numa", "nodes"], "--numa nodes: choose one of node, socket"),
        (["-h", "nosuch"], "-h nosuch: torchx knows no such resource"),
        (["--mounts", "MOUNT"], "--mounts MOUNT: write type=volume,src=CLAIM"),
    ],
)
def test_values_that_nothing_can_be_made_of_are_refused(arguments, line):
    with pytest.raises(ValueError, match=re.escape(line)):
        app("--config", "a.yaml", *arguments)


def test_a_mistake_under_torchx_run_is_one_line_and_exit_code_2(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["/bin/torchx", "run", "components/dlrm.py:train"])
    with pytest.raises(SystemExit) as ended:
        app("--config", "a.yaml", "-j", "two")
    assert ended.value.code == 2
    assert capsys.readouterr().err.startswith("-j two: write ")


@pytest.mark.parametrize("component", COMPONENTS)
def test_torchx_accepts_the_components(component, capsys):
    with pytest.raises(SystemExit) as ended:
        app("--help", component=component)
    assert ended.value.code == 0
    assert "hosts x " in capsys.readouterr().out
    with get_runner() as runner:
        info = runner.dryrun_component(
            f"{COMPONENT}:{component}", NEEDED.get(component, ["--config", "a.yaml"]), "local_cwd"
        )
    assert "launch/elastic.py" in info.request.role_params[component][0].args[-1]


class TestByTorchx(ComponentTestCase):
    """torchx's own check of components."""

    def test_components_are_valid(self):
        for component in (*COMPONENTS, "serve", "command"):
            self.validate(SimpleNamespace(__file__=COMPONENT), component)


def test_preprocessing_on_several_hosts_is_one_process_a_host():
    arguments = ["-j", "4x1", "--", "--input=raw/day_*", "--output=packed"]
    assert role_of(*arguments, component="preprocess").num_replicas == 4
    assert command(*arguments, component="preprocess").endswith(
        "dlrm_main.py preprocess --config a.yaml '--input=raw/day_*' --output=packed"
    )
    assert " --nproc-per-node 1 --max-restarts 0 --nnodes 4 " in command(*arguments, component="preprocess")


def test_a_benchmark_is_tried_once_and_each_host_leaves_why_it_failed():
    arguments = ("-j", "2x8", "--error_file", "/shared/a b/error.json", "--numa", "node", "--", "--output=/shared/out")
    assert command(*arguments, component="benchmark") == (
        f"exec env TORCHELASTIC_ERROR_FILE='/shared/a b/error.json'.$HOSTNAME {ON_HOST} launch/elastic.py "
        "--nproc-per-node 8 --max-restarts 0 --numa-binding node --nnodes 2 --rdzv-backend c10d --rdzv-id dlrm-1 "
        "--rdzv-endpoint ${TORCHX_RANK0_HOST:-localhost} dlrm_main.py benchmark --config a.yaml --output=/shared/out"
    )
    role = role_of("-j", "2x8", component="benchmark")
    assert (role.num_replicas, role.max_retries, role.resource.gpu) == (2, 0, 8)


def test_an_evaluation_runs_on_all_ranks_and_is_tried_once():
    arguments = ("-j", "2x8", "--numa", "node", "--", "--split", "train")
    assert command(*arguments, component="evaluate") == (
        f"exec {ON_HOST} launch/elastic.py --nproc-per-node 8 --max-restarts 0 --numa-binding node --nnodes 2 "
        "--rdzv-backend c10d --rdzv-id dlrm-1 --rdzv-endpoint ${TORCHX_RANK0_HOST:-localhost} "
        "dlrm_main.py evaluate --path=runs/a --split train"
    )
    role = role_of("-j", "2x8", component="evaluate")
    assert (role.num_replicas, role.max_retries, role.resource.gpu) == (2, 0, 8)


def test_predictions_on_several_hosts_are_one_process_a_host():
    arguments = ["-j", "4x1", "--", "--export=e", "--input=raw/day_*", "--output=scores.parquet"]
    assert command(*arguments, component="predict").endswith(
        "dlrm_main.py predict --config a.yaml --export=e '--input=raw/day_*' --output=scores.parquet"
    )
    role = role_of("-j", "4x2", component="predict")
    assert (role.num_replicas, role.max_retries, role.resource.cpu, role.resource.gpu) == (4, 3, 8, 0)
    (without,) = app("--", "e", "raw", component="predict").roles
    assert without.args[1].endswith("--max-restarts 0 --standalone --local-addr localhost dlrm_main.py predict e raw")


def test_a_server_is_one_process_that_gets_the_signals_itself():
    arguments = ["--port", "9000", "--env", "A=b,c", "--", "--max_wait_ms", "2"]
    assert command(*arguments, component="serve") == (
        f"exec env A=b,c {ON_HOST} dlrm_main.py serve --models=ads=/shared/a --host 0.0.0.0 --port 9000 --max_wait_ms 2"
    )
    role = role_of(*arguments, component="serve")
    assert (role.port_map, role.num_replicas, role.max_retries) == ({"http": 9000}, 1, 3)
    assert (role.resource.cpu, role.resource.gpu, role.env) == (4, 0, {})
    image = command("--image", "dlrm:1", component="serve")
    assert image.startswith("exec python dlrm_main.py serve --models=ads=/shared/a ")


def test_any_other_command_runs_on_one_host():
    (role,) = app("--cpu", "8", "--", "materialize", "/shared/packed", component="command").roles
    assert role.args[1].endswith(" --standalone --local-addr localhost dlrm_main.py materialize /shared/packed")
    assert (role.resource.cpu, role.resource.gpu, role.max_retries, role.num_replicas) == (8, 0, 0, 1)
    with pytest.raises(ValueError, match="no command is given"):
        app(component="command")


@pytest.mark.parametrize(
    ("path", "others"), [(COMPONENT, []), (ROOT / "launch" / "appdef.py", ["preflight", "torchx_cli"])]
)
def test_components_import_torchx_and_the_standard_library_only(path, others):
    for node in ast.walk(ast.parse(Path(path).read_text())):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        names += [node.module] if isinstance(node, ast.ImportFrom) else []
        for name in names:
            assert name.split(".")[0] in {*sys.stdlib_module_names, "torchx", *others}


@pytest.mark.parametrize("component", COMPONENTS)
def test_jobs_over_several_hosts_have_a_secret_and_each_its_own(component, monkeypatch):
    def secret(*arguments):
        return role_of(*arguments, component=component).env.get("DLRM_JOB_SECRET")

    assert re.fullmatch("[0-9a-f]{64}", secret("-j", "2x1"))
    assert secret("-j", "2x1") != secret("-j", "2x1")
    assert secret("-j", "1") is None
    monkeypatch.setenv("DLRM_JOB_SECRET", "s" * 32)
    assert secret("-j", "2x1") == "s" * 32


def test_a_server_gets_no_signal_to_save_from_slurm_that_it_would_not_heed(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["torchx", "run", "-s", "slurm", "--dryrun", "components/dlrm.py:serve"])
    monkeypatch.setattr(os, "environ", {})
    command("--", "--max_wait_ms", "2", component="serve")
    assert set(os.environ) == {"SRUN_CPUS_PER_TASK", "SBATCH_OPEN_MODE", "SLURM_OPEN_MODE"}


def test_slurm_is_told_by_the_submitters_environment_what_torchx_has_no_option_for(monkeypatch):
    """Secrets, too: torchx has Slurm print the commands of a job, and with them the environment of its role."""
    monkeypatch.setattr(sys, "argv", ["torchx", "run", "-s", "slurm", "--dryrun", "components/dlrm.py:train"])
    monkeypatch.setattr(os, "environ", {"SBATCH_SIGNAL": "USR1@300"})
    role = role_of("-j", "2x1", "--env", "WANDB_API_KEY=a,b")
    assert role.env == {}
    assert "WANDB" not in role.args[1]
    assert os.environ["WANDB_API_KEY"] == "a,b"
    assert os.environ["SRUN_CPUS_PER_TASK"] == "4"
    assert os.environ["DLRM_REQUEUE"] == "1"
    assert os.environ["SBATCH_SIGNAL"] == "USR1@300"  # the user's own
    assert os.environ["SBATCH_OPEN_MODE"] == os.environ["SLURM_OPEN_MODE"] == "append"
    assert re.fullmatch("[0-9a-f]{64}", os.environ["DLRM_JOB_SECRET"])
