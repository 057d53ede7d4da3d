"""The command export as a person meets it."""

import shutil

import pytest

from dlrm.inference.exported.predictor import open_predictor
from tests.e2e.test_bad_input import assert_one_line_and_exit_code_2
from tests.support.command import run_command
from tests.unit.inference.saved_models import save_model


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """A folder with a checkpoint and what the command has made of it."""
    folder = tmp_path_factory.mktemp("export")
    saved = save_model(folder / "checkpoints", step=300)
    (outcome,) = run_command(["export", str(saved.path), str(folder / "e")])
    assert outcome.exit_code == 0, outcome.stderr
    assert outcome.stdout.startswith(f"step 300 as an export in {folder / 'e'}: 5 tables, ")
    return saved, folder / "e"


def test_the_command_makes_an_export_and_leaves_nothing_else(exported):
    _saved, path = exported
    assert open_predictor(path).manifest.source.step == 300
    assert {entry.name for entry in path.parent.iterdir()} == {"checkpoints", "e"}


def test_what_cannot_be_done_is_one_line_and_leaves_what_was_there(exported, tmp_path):
    saved, path = exported
    before = {file.name: file.read_bytes() for file in path.iterdir()}
    refused = run_command(["export", str(saved.path), str(path)])
    assert_one_line_and_exit_code_2(refused, "is there already", "--overwrite")
    other = save_model(tmp_path / "c", step=400)
    refused = run_command(["export", str(other.path), str(tmp_path / "u"), "--update", str(path)])
    assert_one_line_and_exit_code_2(refused, "was made of a checkpoint of step 300", "export it anew")
    broken = shutil.copytree(path, tmp_path / "broken")
    (broken / "COMMITTED").unlink()
    refused = run_command(["export", str(saved.path), str(tmp_path / "u"), f"--update={broken}"])
    assert_one_line_and_exit_code_2(refused, "was never finished")
    assert {entry.name for entry in tmp_path.iterdir()} == {"c", "broken"}
    assert {file.name: file.read_bytes() for file in path.iterdir()} == before
