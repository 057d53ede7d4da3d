import json

import pytest
import torch

from dlrm.config import load_config
from dlrm.distributed.collectives import OneProcess
from dlrm.distributed.world import Place, World
from dlrm.errors import ConfigError
from dlrm.train.run_folder import open_run_folder, write_json

WORLD = World(place=Place(), device=torch.device("cpu"), backend="gloo", collectives=OneProcess())


def folder_of(tmp_path, *options):
    return open_run_folder(load_config(None, [f"run.dir={tmp_path}", "run.name=a", *options]), WORLD)


def test_a_run_never_touches_an_earlier_one_of_its_name(tmp_path):
    first, second, third = (folder_of(tmp_path) for _ in range(3))
    assert [folder.name for folder in (first, second, third)] == ["a", "a-2", "a-3"]


def test_overwrite_replaces_a_run_but_nothing_else(tmp_path):
    first = folder_of(tmp_path)
    (first / "metrics.jsonl").write_text("old")
    again = folder_of(tmp_path, "run.overwrite=true")
    assert again == first
    assert not (again / "metrics.jsonl").exists()
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "thesis.tex").write_text("no run")
    assert folder_of(tmp_path, "run.name=b", "run.overwrite=true").name == "b-2"
    assert (tmp_path / "b" / "thesis.tex").exists()


def test_the_saved_configuration_is_the_configuration(tmp_path):
    config = load_config(None, [f"run.dir={tmp_path}", "optim.sparse={kind: sgd, lr: 3}", "data.rows=3,4"])
    folder = open_run_folder(config, WORLD)
    assert load_config(folder / "config.yaml") == config


def test_the_environment_names_versions_and_hardware(tmp_path):
    environment = json.loads((folder_of(tmp_path) / "environment.json").read_text())
    assert environment["packages"]["torch"] == torch.__version__
    assert (environment["ranks"], environment["device"]) == (1, "cpu")


def test_a_folder_that_cannot_be_made_is_a_mistake_in_run_dir(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match=r"run\.dir: .*file"):
        open_run_folder(load_config(None, [f"run.dir={tmp_path / 'file' / 'runs'}"]), WORLD)


def test_json_is_whole_or_not_there(tmp_path):
    path = tmp_path / "summary.json"
    write_json(path, {"a": 1})
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(path, {"a": float("nan")})
    assert json.loads(path.read_text()) == {"a": 1}
