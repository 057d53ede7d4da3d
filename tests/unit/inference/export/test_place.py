"""A new export takes its place when it is whole; the one before is there until then, whatever happens."""

import errno
import os
import shutil

import pytest

from dlrm.errors import ExportError
from dlrm.inference.export import place
from dlrm.inference.export.write import new_export


def fill(folder, text):
    """As far as who replaces it looks, an export."""
    folder.mkdir(exist_ok=True)
    (folder / "manifest.json").write_text('{"format": "dlrm-export"}')
    (folder / "dense.pt2").write_text(text)


def text_of(folder):
    return (folder / "dense.pt2").read_text()


@pytest.fixture(params=["in one step", "by two renames"])
def path(request, tmp_path, monkeypatch):
    """An export that says "old", where folders can be exchanged and where not."""
    if request.param == "by two renames":
        monkeypatch.setattr(place, "exchange", lambda one, other: False)
    fill(tmp_path / "e", "old")
    return tmp_path / "e"


def replace(path):
    with new_export(str(path), overwrite=True) as writer:
        fill(writer.path, "new")
        assert text_of(path) == "old"


def test_the_new_one_is_there_and_nothing_else(path):
    replace(path)
    assert text_of(path) == "new"
    assert os.listdir(path.parent) == ["e"]


def test_an_old_one_that_cannot_be_removed_is_no_failure_and_is_removed_later(path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "rmtree", lambda *_, **__: None)
        replace(path)
    assert text_of(path) == "new"
    assert len(os.listdir(path.parent)) == 2
    with pytest.raises(ExportError, match="is there already"), new_export(str(path), overwrite=False):
        pass
    assert os.listdir(path.parent) == ["e"]


def test_a_failing_rename_leaves_the_old_one(path, monkeypatch):
    rename = os.rename

    def fail(source, target):
        if str(source).endswith(".unfinished"):
            raise OSError(errno.EACCES, "no", str(source))
        rename(source, target)

    monkeypatch.setattr(place, "exchange", lambda one, other: False)
    monkeypatch.setattr(os, "rename", fail)
    with pytest.raises(ExportError, match=r"cannot be written \(no\)"):
        replace(path)
    assert text_of(path) == "old"
    assert os.listdir(path.parent) == ["e"]


def test_a_process_that_was_killed_between_two_renames_leaves_no_gap(tmp_path):
    """The next one finds the old export where it was, and nothing hidden."""
    fill(tmp_path / ".e.00c0ffee.replaced", "old")
    fill(tmp_path / ".e.12345678.unfinished", "new")
    fill(tmp_path / ".e.mine.unfinished", "another's")
    fill(tmp_path / ".f.12345678.unfinished", "another's")
    with pytest.raises(ExportError, match="is there already"), new_export(str(tmp_path / "e"), overwrite=False):
        pass
    assert text_of(tmp_path / "e") == "old"
    assert sorted(os.listdir(tmp_path)) == [".e.mine.unfinished", ".f.12345678.unfinished", "e"]


def test_what_another_process_is_writing_stays(tmp_path):
    path = tmp_path / "e"
    with new_export(str(path), overwrite=False) as slow:
        with new_export(str(path), overwrite=False) as fast:
            fill(fast.path, "fast")
        fill(slow.path, "slow")
        assert text_of(path) == "fast"
        shutil.rmtree(path)
    assert text_of(path) == "slow"


def test_an_empty_folder_stays_where_the_work_fails(tmp_path):
    path = tmp_path / "e"
    path.mkdir()
    with pytest.raises(KeyError), new_export(str(path), overwrite=False):
        raise KeyError
    assert os.listdir(tmp_path) == ["e"]
    with new_export(str(path), overwrite=False) as writer:
        fill(writer.path, "new")
    assert text_of(path) == "new"


def test_folders_are_exchanged_or_it_is_said_that_they_are_not(tmp_path):
    fill(tmp_path / "a", "a")
    fill(tmp_path / "b", "b")
    done = place.exchange(tmp_path / "a", tmp_path / "b")
    assert (text_of(tmp_path / "a"), text_of(tmp_path / "b")) == (("b", "a") if done else ("a", "b"))
    with pytest.raises(FileNotFoundError, match="none"):
        place.exchange(tmp_path / "a", tmp_path / "none")
