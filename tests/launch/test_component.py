import ast
import re
import sys
from pathlib import Path

import pytest
from torchx import specs
from torchx.runner import get_runner
from torchx.specs.builders import materialize_appdef
from torchx.specs.finder import get_component

ROOT = Path(__file__).resolve().parents[2]
COMPONENT = str(ROOT / "components" / "dlrm.py")


def app(*arguments, component="train"):
    return materialize_appdef(get_component(f"{COMPONENT}:{component}").fn, list(arguments))


def rendered_args(definition):
    """The arguments of the first host after torchx has put in what it knows."""
    values = specs.macros.Values(img_root="", app_id="dlrm-1", replica_id="0", rank0_env="TORCHX_RANK0_HOST")
    return values.apply(definition.roles[0]).args


def test_one_host_runs_the_launcher_with_a_free_port_and_passes_arguments_on():
    definition = app("--config", "configs/a.yaml", "--nproc", "2", "--max_restarts", "3", "--", "--train.epochs", "2")
    (role,) = definition.roles
    assert (role.name, role.entrypoint, role.num_replicas) == ("train", sys.executable, 1)
    assert role.args == [
        *("launch/elastic.py", "--nproc-per-node", "2", "--max-restarts", "3", "--standalone"),
        *("--local-addr", "localhost", "dlrm_main.py", "train", "--config", "configs/a.yaml", "--train.epochs", "2"),
    ]


def test_several_hosts_meet_at_the_first():
    definition = app("--config", "a b.yaml", "--nproc", "8", "--nnodes", "2", "--rdzv_port", "29501")
    (role,) = definition.roles
    assert (role.entrypoint, role.num_replicas) == ("bash", 2)
    assert rendered_args(definition) == [
        "-c",
        f"{sys.executable} launch/elastic.py --nproc-per-node 8 --max-restarts 0 --nnodes 2 --rdzv-backend c10d "
        "--rdzv-id dlrm-1 --rdzv-endpoint ${TORCHX_RANK0_HOST:-localhost}:29501 "
        "dlrm_main.py train --config 'a b.yaml'",
    ]


@pytest.mark.parametrize("hosts", ["1", "2"])
def test_dollar_signs_of_the_user_are_meant_literally(hosts):
    args = rendered_args(app("--config", "a.yaml", "--nnodes", hosts, "--", "run.name=$app_id"))
    assert "run.name=$app_id" in args[-1]


def test_environment_and_resources_reach_the_role():
    (role,) = app("--config", "a.yaml", "--env", "NCCL_DEBUG=INFO", "--cpu", "4", "--gpu", "2", "--memMB", "100").roles
    assert role.env["NCCL_DEBUG"] == "INFO"
    assert (role.resource.cpu, role.resource.gpu, role.resource.memMB) == (4, 2, 100)


def test_an_image_brings_its_own_python():
    assert app("--config", "a.yaml", "--image", "dlrm:1").roles[0].entrypoint == "python"


@pytest.mark.parametrize("option", ["--nproc", "--nnodes"])
def test_less_than_one_rank_or_host_is_refused(option):
    with pytest.raises(ValueError, match="at least 1"):
        app("--config", "a.yaml", option, "0")


@pytest.mark.parametrize("component", ["train", "preprocess"])
def test_torchx_accepts_the_components(component):
    with get_runner() as runner:
        info = runner.dryrun_component(f"{COMPONENT}:{component}", ["--config", "a.yaml"], "local_cwd")
    assert info.request.role_params[component][0].args[1] == "launch/elastic.py"


def test_preprocessing_on_several_hosts_is_one_process_a_host():
    definition = app("--nnodes", "4", "--", "--input=raw/day_*", "--output=packed", component="preprocess")
    (role,) = definition.roles
    assert (role.name, role.entrypoint, role.num_replicas) == ("preprocess", "bash", 4)
    assert rendered_args(definition)[1].endswith("dlrm_main.py preprocess '--input=raw/day_*' --output=packed")
    assert " --nproc-per-node 1 --max-restarts 0 --nnodes 4 " in rendered_args(definition)[1]


def test_components_import_torchx_and_the_standard_library_only():
    for node in ast.walk(ast.parse(Path(COMPONENT).read_text())):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        names += [node.module] if isinstance(node, ast.ImportFrom) else []
        for name in names:
            assert name.split(".")[0] in {*sys.stdlib_module_names, "torchx"}


def test_hosts_may_die_and_join_between_the_fewest_and_the_most():
    definition = app("--config", "a.yaml", "--nnodes", "2:4", "--max_restarts", "3")
    assert definition.roles[0].num_replicas == 4
    assert " --max-restarts 3 --nnodes 2:4 " in rendered_args(definition)[1]


@pytest.mark.parametrize("nnodes", ["two", "4:2", "1:", ":3"])
def test_a_number_of_hosts_that_makes_no_sense_is_refused(nnodes):
    with pytest.raises(ValueError, match=f"nnodes \\({nnodes}\\)"):
        app("--config", "a.yaml", "--nnodes", nnodes)


@pytest.mark.parametrize("component", ["train", "preprocess"])
def test_jobs_over_several_hosts_have_a_secret_and_each_its_own(component, monkeypatch):
    def secret(*arguments):
        return app("--config", "a.yaml", *arguments, component=component).roles[0].env.get("DLRM_JOB_SECRET")

    monkeypatch.delenv("DLRM_JOB_SECRET", raising=False)
    assert re.fullmatch("[0-9a-f]{64}", secret("--nnodes", "2"))
    assert secret("--nnodes", "2") != secret("--nnodes", "2")
    assert secret("--nnodes", "1") is None
    monkeypatch.setenv("DLRM_JOB_SECRET", "s" * 32)
    assert secret("--nnodes", "2") == "s" * 32
    assert secret("--nnodes", "2", "--env", f"DLRM_JOB_SECRET={'t' * 32}") == "t" * 32
