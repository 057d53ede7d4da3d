"""What torchx reads of this folder: settings of schedulers, and what it leaves out of a copy."""

import configparser
import importlib.util
import shutil

import pytest
from torchx.runner import config
from torchx.schedulers import get_scheduler_factories
from torchx.schedulers.slurm_scheduler import SlurmScheduler
from torchx.specs import Role

from tests.launch.launching import ROOT

SCHEDULERS = ["local_cwd", "slurm", "kubernetes", "aws_batch", "ray"]


@pytest.fixture(autouse=True)
def this_folder(monkeypatch):
    monkeypatch.setenv("TORCHXCONFIG", str(ROOT / ".torchxconfig"))


@pytest.mark.parametrize("scheduler", SCHEDULERS)
def test_a_scheduler_knows_every_setting_of_its_section_and_lacks_none(scheduler):
    if scheduler == "ray" and importlib.util.find_spec("ray") is None:
        pytest.skip("the package ray is not installed")
    if scheduler not in get_scheduler_factories():
        pytest.skip(f"this torchx has no {scheduler}")
    sections = configparser.ConfigParser()
    sections.read(ROOT / ".torchxconfig")
    options = get_scheduler_factories()[scheduler](session_name="test").run_opts()
    assert set(sections.options(scheduler)) <= {name for name, _ in options}
    settings = {}
    config.apply(scheduler, settings)
    options.resolve(settings)  # raises for one that is required


def test_nothing_is_copied_unless_it_is_asked_for():
    """On Kubernetes and AWS Batch a copy would be an image, for which Docker is needed here."""
    assert config.get_configs("cli", "run") == {
        "component": "components/dlrm.py:train",
        "scheduler": "local_cwd",
        "workspace": "",
    }


def test_a_copy_holds_the_code_and_neither_environments_nor_data_nor_runs(tmp_path):
    tree, copy = tmp_path / "tree", tmp_path / "copy"
    kept = ["dlrm_main.py", "dlrm/data/order.py", "tests/dist/test_world.py", "launch/elastic.py", "configs/a.yaml"]
    left = [
        *(
            ".git/HEAD",
            ".venv/bin/python",
            ".venv-2.12/bin/python",
            "runs/a/run.json",
            "data/day_0",
            "build/x",
            "dist/x",
        ),
        *("dlrm/__pycache__/a.pyc", "__pycache__/a.pyc", ".ruff_cache/x", "dlrm.egg-info/x", "slurm-7-train-0.out"),
    ]
    for name in [*kept, *left]:
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        (tree / name).write_text(name)
    (tree / ".venv" / "lib64").symlink_to("lib")  # on such a link the copy would die
    shutil.copy(ROOT / ".torchxignore", tree)
    role = Role(name="train", image="")
    SlurmScheduler("test").build_workspace_and_update_role(role, f"file://{tree}", {"job_dir": str(copy)})
    assert role.image == str(copy)
    assert sorted(str(path.relative_to(copy)) for path in copy.rglob("*") if path.is_file()) == sorted(
        [".torchxignore", *kept]
    )
