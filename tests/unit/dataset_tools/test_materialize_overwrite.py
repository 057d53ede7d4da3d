"""``materialize --overwrite`` replaces what it has written itself, and nothing of anybody else."""

import errno
import os

import numpy as np
import pytest

from dlrm.dataset_tools import materialize
from dlrm.dataset_tools.materialize import run_materialize
from dlrm.errors import DataError
from tests.unit.dataset_tools.test_materialize import ROWS, config_of, write_folder, write_manifest_for


@pytest.mark.parametrize("listed", [True, False], ids=["a manifest", "no manifest"])
@pytest.mark.parametrize("elsewhere", [True, False], ids=["elsewhere", "in place"])
def test_somebody_elses_file_is_named_and_stays_even_where_files_are_to_be_overwritten(tmp_path, listed, elsewhere):
    folder = write_folder(tmp_path / "packed")
    if listed:
        write_manifest_for(folder)
    output = tmp_path / "other" if elsewhere else folder
    output.mkdir(exist_ok=True)
    (output / "day_1_sparse_multi_hot.npz").write_bytes(b"precious")
    before = {path.name: path.read_bytes() for path in output.iterdir()}
    with pytest.raises(
        DataError, match=r"\A.*day_1_sparse_multi_hot.npz: was not written by .*; nothing was removed.*\Z"
    ):
        run_materialize(config_of(folder, rows=None if listed else ROWS, output=str(output), overwrite=True))
    after = {path.name: path.read_bytes() for path in output.iterdir()}
    assert after == before | {".materialize.lock": b""}


@pytest.mark.parametrize("target", ["file", "nothing"])
def test_a_link_in_the_place_of_a_file_is_not_replaced(tmp_path, target):
    folder = write_folder(tmp_path / "packed")
    run_materialize(config_of(folder))
    path = folder / "day_1_sparse_multi_hot.npz"
    path.rename(tmp_path / "file")
    path.symlink_to(tmp_path / target)
    with pytest.raises(DataError, match=r"day_1_sparse_multi_hot.npz: is a link; nothing was removed"):
        run_materialize(config_of(folder, overwrite=True))
    assert path.is_symlink()


@pytest.mark.parametrize("elsewhere", [True, False], ids=["elsewhere", "in place"])
def test_overwriting_that_was_interrupted_goes_on(tmp_path, monkeypatch, elsewhere):
    folder = write_manifest_for(write_folder(tmp_path / "packed"))
    output = tmp_path / "other" if elsewhere else folder
    options = {"rows": None, "output": str(output)}
    run_materialize(config_of(folder, **options))
    with monkeypatch.context() as patch:
        patch.setattr(materialize._PartFile, "write", full_disk)
        with pytest.raises(DataError, match="No space"):
            run_materialize(config_of(folder, hotness=4, overwrite=True, **options))
    run_materialize(config_of(folder, hotness=4, overwrite=True, **options))
    assert np.load(output / "day_2_sparse_multi_hot.npz")["3"].shape == (5, 4)


def full_disk(*_):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_the_lock_costs_no_file(tmp_path):
    folder = write_folder(tmp_path / "packed")
    (tmp_path / "notes").write_text("precious")
    (folder / ".materialize.lock").symlink_to(tmp_path / "notes")
    run_materialize(config_of(folder))
    assert (tmp_path / "notes").read_text() == "precious"
