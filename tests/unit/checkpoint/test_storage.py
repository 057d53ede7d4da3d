import os
import shutil
import threading

import pytest

from dlrm.checkpoint.storage import LocalStorage, names_if_there
from tests.unit.checkpoint.states import cut_up, random_state, save_ranks

STORAGE = LocalStorage()


def test_a_file_is_read_in_ranges_and_ends_where_it_ends(tmp_path):
    path = str(tmp_path / "a")
    with STORAGE.writer(path) as file:
        file.write(b"0123")
        file.write(memoryview(b"456789"))
    assert STORAGE.size(path) == 10
    assert STORAGE.read(path, 2, 3) == b"234"
    assert STORAGE.read(path, 8, 100) == b"89"
    assert STORAGE.read(path, 100, 1) == b""
    assert STORAGE.read(path, 0, 1 << 62) == b"0123456789"  # no more memory is taken than there are bytes


def test_nothing_that_is_there_is_written_over(tmp_path):
    path = str(tmp_path / "a")
    STORAGE.put(path, b"first")
    with pytest.raises(FileExistsError):
        STORAGE.put(path, b"second")
    with pytest.raises(FileExistsError), STORAGE.writer(path):
        pass
    with pytest.raises(FileExistsError):
        STORAGE.make_folder(str(tmp_path))
    STORAGE.make_folder(str(tmp_path / "old"))
    STORAGE.make_folder(str(tmp_path / "new"))
    STORAGE.put(str(tmp_path / "new" / "x"), b"")
    for taken in ("new", "a"):
        with pytest.raises(OSError, match=r"not empty|Not a directory"):
            STORAGE.rename_folder(str(tmp_path / "old"), str(tmp_path / taken))
    assert STORAGE.read(path, 0, 10) == b"first"


@pytest.mark.parametrize("gone", ["renamed", "removed"])
def test_a_file_is_put_also_if_its_folder_goes_as_soon_as_it_is_seen(gone, tmp_path, monkeypatch):
    """Rank 0 renames the folder of a save once it sees the last rank's word, and removes it after a rank's failure."""
    folder, rename = tmp_path / "working", os.rename
    folder.mkdir()

    def renamed_and_seen(old, new):
        rename(old, new)
        rename(folder, tmp_path / "final")
        if gone == "removed":
            shutil.rmtree(tmp_path / "final")

    monkeypatch.setattr(os, "rename", renamed_and_seen)
    STORAGE.put(str(folder / "done"), b"x")
    assert not folder.exists()
    assert (tmp_path / "final" / "done").exists() == (gone == "renamed")


def test_links_pipes_and_folders_are_no_files_and_reading_them_returns_at_once(tmp_path):
    (tmp_path / "file").write_text("x")
    (tmp_path / "link").symlink_to("file")
    (tmp_path / "dangling").symlink_to("nothing")
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    for name in ("link", "dangling", "folder", "pipe"):
        with pytest.raises(OSError, match="is no plain file"):
            STORAGE.size(str(tmp_path / name))
        with pytest.raises(OSError, match=r"is no plain file|symbolic link"):
            STORAGE.read(str(tmp_path / name), 0, 1)
    with pytest.raises(OSError, match="exists"), STORAGE.writer(str(tmp_path / "dangling")):
        pass
    assert not (tmp_path / "nothing").exists()
    (tmp_path / "folder link").symlink_to("folder")
    assert [STORAGE.is_folder(str(tmp_path / name)) for name in ("folder", "folder link", "file", "x")] == [
        True, False, False, False,
    ]  # fmt: skip
    assert names_if_there(STORAGE, str(tmp_path / "x")) == []


def test_removing_a_folder_does_not_follow_links(tmp_path):
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept" / "file").touch()
    (tmp_path / "gone").mkdir()
    (tmp_path / "gone" / "link").symlink_to("../kept")
    STORAGE.remove_folder(str(tmp_path / "gone"))
    assert (tmp_path / "kept" / "file").exists()
    assert not (tmp_path / "gone").exists()


class Recorder:
    """Stands for the module ``os`` and notes what is made durable when."""

    def __init__(self):
        self.events, self.paths, self.lock = [], {}, threading.Lock()

    def __getattr__(self, name):
        return getattr(os, name)

    def open(self, path, flags, *mode):
        descriptor = os.open(path, flags, *mode)
        self.paths[descriptor] = path
        return descriptor

    def write(self, descriptor, data):
        self.events.append(("write", self.paths[descriptor]))
        return os.write(descriptor, data)

    def fsync(self, descriptor):
        self.events.append(("sync", self.paths[descriptor]))
        os.fsync(descriptor)

    def rename(self, old, new):
        self.events.append(("rename", old, new))
        os.rename(old, new)

    def unlink(self, path):
        self.events.append(("unlink", path))
        os.unlink(path)


def test_everything_is_durable_before_the_checkpoint_gets_its_name_and_its_mark(tmp_path, monkeypatch):
    recorder = Recorder()
    monkeypatch.setattr("dlrm.checkpoint.storage.os", recorder)
    save_ranks(tmp_path, 1, cut_up(random_state(0), 0, 2))
    events, final = recorder.events, str(tmp_path / "step_00000001")
    naming = next(at for at, event in enumerate(events) if event[0] == "rename" and event[2] == final)
    working = events[naming][1]
    for at, event in enumerate(events):
        if event[0] == "write":
            assert ("sync", event[1]) in events[at:], f"{event[1]} is never synced"
            if event[1].startswith(working):
                assert ("sync", event[1]) in events[at:naming]
        if event[0] in ("rename", "unlink") and at < naming:
            assert ("sync", working) in events[at:naming]
    assert events[naming + 1] == ("sync", str(tmp_path))
    mark = [("write", f"{final}/COMMITTED.unfinished"), ("sync", f"{final}/COMMITTED.unfinished")]
    mark += [("rename", f"{final}/COMMITTED.unfinished", f"{final}/COMMITTED"), ("sync", final)]
    assert events[naming + 2 :] == mark
