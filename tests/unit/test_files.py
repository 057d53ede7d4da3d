import errno
import fcntl
import os
import threading
import time
from contextlib import suppress

import pytest

from dlrm import files
from dlrm.files import alone, write_json, written_beside


@pytest.mark.parametrize("durable", [True, False])
def test_what_fails_while_it_is_written_leaves_the_old_file_and_nothing_beside(tmp_path, durable):
    path = tmp_path / "file"
    path.write_bytes(b"old")
    with pytest.raises(TypeError), written_beside(path, durable=durable) as file:
        file.writelines([b"new", "no bytes"])
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]
    with written_beside(path, durable=durable) as file:
        file.write(b"new")
        assert path.read_bytes() == b"old"
    assert path.read_bytes() == b"new"
    assert list(tmp_path.iterdir()) == [path]


def test_a_file_may_be_written_elsewhere_until_it_is_whole(tmp_path):
    with written_beside(tmp_path / "file", beside=tmp_path / "other") as file:
        file.write(b"new")
        assert [path.name for path in tmp_path.iterdir()] == ["other"]
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_json_is_whole_and_says_nothing_that_json_cannot(tmp_path):
    path = tmp_path / "a.json"
    write_json(path, {"a": [1, 0.5, None]})
    assert path.read_bytes() == b'{"a": [1, 0.5, null]}\n'
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(path, {"a": float("nan")}, indent=1)
    assert path.read_bytes() == b'{"a": [1, 0.5, null]}\n'
    write_json(path, [1], indent=1, beside=tmp_path / "other", durable=False)
    assert path.read_bytes() == b"[\n 1\n]\n"
    assert list(tmp_path.iterdir()) == [path]


def test_what_a_link_in_the_place_beside_stands_for_is_not_written_to(tmp_path):
    (tmp_path / "precious").write_bytes(b"x")
    (tmp_path / "file.unfinished").symlink_to(tmp_path / "precious")
    with pytest.raises(OSError, match=r"file\.unfinished"), written_beside(tmp_path / "file"):
        pass
    assert (tmp_path / "precious").read_bytes() == b"x"


def test_only_a_durable_file_waits_for_the_disk(tmp_path, monkeypatch):
    synced = []
    monkeypatch.setattr(files.os, "fsync", synced.append)
    with written_beside(tmp_path / "file", durable=False):
        pass
    assert synced == []
    with written_beside(tmp_path / "file"):
        pass
    assert len(synced) == 2  # the file, and its name in the folder


def test_who_waits_comes_in_when_the_other_leaves(tmp_path):
    order = []

    def enter():
        with alone(tmp_path / "new" / "lock"):
            order.append("second")

    with alone(tmp_path / "new" / "lock"):
        second = threading.Thread(target=enter)  # a lock holds between open files, also of one process
        second.start()
        time.sleep(0.2)
        order.append("first")
    second.join(timeout=30)
    assert order == ["first", "second"]


@pytest.mark.parametrize("patience_s", [0, 0.2])
def test_who_does_not_wait_any_longer_is_told(tmp_path, patience_s):
    began = time.monotonic()
    with alone(tmp_path / "lock"), pytest.raises(BlockingIOError), alone(tmp_path / "lock", patience_s=patience_s):
        pass
    assert time.monotonic() - began >= patience_s
    with alone(tmp_path / "lock", patience_s=0):  # it is free again
        pass


def test_what_is_in_the_lock_file_stays(tmp_path):
    (tmp_path / "lock").write_text("mine")
    with alone(tmp_path / "lock"):
        pass
    assert (tmp_path / "lock").read_text() == "mine"


def test_a_lock_file_that_its_holder_removes_keeps_nobody_out_and_lets_only_one_in(tmp_path):
    inside, most = [0], []

    def leave():
        (tmp_path / "folder" / "lock").unlink()
        with suppress(OSError):  # somebody who waits has just made a new one
            (tmp_path / "folder").rmdir()

    def enter():
        with alone(tmp_path / "folder" / "lock"):
            inside[0] += 1
            most.append(inside[0])
            time.sleep(0.02)
            inside[0] -= 1
            leave()

    threads = [threading.Thread(target=enter) for _ in range(3)]
    with alone(tmp_path / "folder" / "lock"):
        for thread in threads:
            thread.start()
        time.sleep(0.1)
        leave()
    for thread in threads:
        thread.join(timeout=30)
    assert most == [1, 1, 1]


def test_an_error_of_whoever_is_in_is_his_own(tmp_path):
    with pytest.raises(FileNotFoundError, match="mine"), alone(tmp_path / "lock", patience_s=0):
        raise FileNotFoundError("mine")


def test_where_there_are_no_locks_only_those_go_in_who_would_not_wait(tmp_path, monkeypatch):
    def none(file, how):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", none)
    with alone(tmp_path / "lock", patience_s=0):
        pass
    with pytest.raises(OSError, match="No locks available"), alone(tmp_path / "lock"):
        pass
