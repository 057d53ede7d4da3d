"""What a job that starts over may remove: a data set of this program, and nothing of anybody else."""

import json
import shutil

import pytest

from dlrm.errors import ConfigError, DataError
from dlrm.preprocess.overwrite import make_way
from dlrm.preprocess.work_folder import WorkFolder
from tests.e2e.faulty_disk import fail_at
from tests.unit.preprocess.tiny_criteo import contents, make, write_raw

PRECIOUS = "months of work"


@pytest.fixture
def raw(tmp_path):
    return write_raw(tmp_path / "raw", rows=(9, 8, 7))


def everything(folder):
    """All names below a folder, what files hold and where links point."""
    return {
        str(path.relative_to(folder)): str(path.readlink())
        if path.is_symlink()
        else path.is_file() and path.read_bytes()
        for path in folder.rglob("*")
    }


@pytest.mark.parametrize("finished", [True, False], ids=["beside a data set", "alone"])
@pytest.mark.parametrize(
    "name",
    [
        "mine_dense.npy",
        "day_9_labels.npy",
        "mine_sparse_multi_hot.npz",
        "mine_sparse.npy.unfinished",
        "vocabulary/cat_7.npy",
    ],
)
def test_files_that_no_manifest_lists_are_named_and_stay(raw, tmp_path, finished, name):
    output = make(raw, tmp_path / "out") if finished else tmp_path / "out"
    (output / name).parent.mkdir(parents=True, exist_ok=True)
    (output / name).write_text(PRECIOUS)
    before = everything(output)
    with pytest.raises(DataError, match=rf"\A.*/{name}: was not written by this program.*; nothing was removed: .*\Z"):
        make(raw, output, overwrite=True)
    assert everything(output) == before


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ('{"name": "my own data"}', "is not the manifest of a packed data set"),
        ("my notes", "is not valid JSON"),
        ('{"format": "dlrm-packed", "version": 2}', "has format version 2"),
    ],
)
def test_a_dataset_json_of_somebody_else_is_named_and_stays(raw, tmp_path, text, problem):
    output = tmp_path / "out"
    output.mkdir()
    (output / "dataset.json").write_text(text)
    (output / "day_0_dense.npy").write_text(PRECIOUS)
    before = everything(output)
    with pytest.raises(DataError, match=rf"\A.*dataset\.json: {problem}.*; nothing was removed: move it away.*\Z"):
        make(raw, output, overwrite=True)
    assert everything(output) == before


@pytest.mark.parametrize("name", ["dataset.json", "day_0_dense.npy", "vocabulary"])
def test_links_are_refused_and_nothing_behind_them_is_touched(raw, tmp_path, name):
    output = make(raw, tmp_path / "out")
    shutil.move(output / name, tmp_path / "behind")
    (output / name).symlink_to(tmp_path / "behind")
    before = everything(tmp_path)
    with pytest.raises(DataError, match=rf"/out/{name}.*; nothing was removed"):
        make(raw, output, overwrite=True)
    assert everything(tmp_path) == before


def test_what_has_other_names_stays_where_it_is(raw, tmp_path):
    output = make(raw, tmp_path / "out")
    (output / "dense.npy").write_text(PRECIOUS)
    (output / "raw").mkdir()
    (output / "raw" / "day_0_dense.npy").write_text(PRECIOUS)
    make(raw, output, dense={"shift": 5}, overwrite=True)
    assert [(output / name).read_text() for name in ("dense.npy", "raw/day_0_dense.npy")] == [PRECIOUS] * 2


def test_a_manifest_that_names_other_files_costs_none_of_them(raw, tmp_path):
    output = make(raw, tmp_path / "out")
    (output / "thesis.txt").write_text(PRECIOUS)
    manifest = json.loads((output / "dataset.json").read_text())
    manifest["vocabularies"]["cat_0"]["name"] = "thesis.txt"
    (output / "dataset.json").write_text(json.dumps(manifest))
    with pytest.raises(DataError, match=r"cat_0\.npy: was not written"):
        make(raw, output, overwrite=True)
    (output / "vocabulary" / "cat_0.npy").unlink()
    make(raw, output, overwrite=True)
    assert (output / "thesis.txt").read_text() == PRECIOUS


def test_starting_over_where_nothing_was_finished_goes_on_from_any_moment(raw, tmp_path):
    """The rest of the earlier job is known to be this program's however often the new one is interrupted."""
    change = {"dense": {"shift": 5}, "overwrite": True}
    assert not fail_at(raw, tmp_path / "begun", 90)
    assert list((tmp_path / "begun").glob("*_dense.npy"))
    wanted = contents(make(raw, tmp_path / "wanted", dense={"shift": 5}))
    for at in range(1, 70, 6):
        output = shutil.copytree(tmp_path / "begun", tmp_path / str(at))
        assert not fail_at(raw, output, at, **change)
        with pytest.raises(ConfigError):  # a mistake in between costs nothing either
            make(raw, output, split={"train": ["day_9"]}, **change)
        make(raw, output, **change)
        assert contents(output) == wanted, at


def test_a_data_set_that_was_changed_while_the_new_input_was_parsed_stays(raw, tmp_path):
    output = make(raw, tmp_path / "out")
    assert not fail_at(raw, output, 12, overwrite=True)
    (output / "dataset.json").write_text((output / "dataset.json").read_text() + " ")
    before = everything(output)
    with pytest.raises(
        DataError, match=r"dataset\.json: was changed while the new input was parsed; nothing was removed"
    ):
        make_way(WorkFolder(output))
    assert everything(output) == before
    make(raw, output, overwrite=True)


def test_what_others_keep_among_the_intermediate_files_stays(raw, tmp_path):
    for name in ("raw/mine.txt", "raw/0/mine.txt", "parts/mine.txt"):
        path = tmp_path / "out" / "preprocess.work" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(PRECIOUS)
    make(raw, tmp_path / "out", keep_work=True)
    make(raw, tmp_path / "out", overwrite=True)
    left = [path for path in (tmp_path / "out" / "preprocess.work").rglob("*") if path.is_file()]
    assert sorted(path.name for path in left) == ["mine.txt"] * 3


@pytest.mark.parametrize("name", ["raw", "raw/0"])
def test_intermediate_folders_that_are_links_are_not_followed(raw, tmp_path, name):
    link = tmp_path / "out" / "preprocess.work" / name
    link.parent.mkdir(parents=True)
    (tmp_path / "behind" / "0").mkdir(parents=True)
    (tmp_path / "behind" / "0" / "0").write_text(PRECIOUS)
    link.symlink_to(tmp_path / "behind")
    with pytest.raises(DataError, match=rf"preprocess\.work/{name}: is a link, which is not followed; remove it"):
        make(raw, tmp_path / "out")
    assert (tmp_path / "behind" / "0" / "0").read_text() == PRECIOUS


def test_input_among_the_intermediate_files_is_refused(tmp_path):
    raw = write_raw(tmp_path / "out" / "preprocess.work" / "raw", rows=(9, 8))
    before = everything(raw)
    with pytest.raises(DataError, match="in the folder of the output"):
        make(raw, tmp_path / "out", overwrite=True)
    assert everything(raw) == before
