"""Storage that is away for a moment, or for good: nothing that it holds is taken for damaged."""

import errno
import os
from contextlib import contextmanager

import pytest

from dlrm.checkpoint import patience as patience_module
from dlrm.checkpoint.folder import checkpoint_paths, newest_good
from dlrm.checkpoint.patience import Patience, patient
from dlrm.checkpoint.resume import load_newest
from dlrm.checkpoint.retention import prune
from dlrm.checkpoint.storage import LocalStorage, UnreachableError, may_pass
from dlrm.checkpoint.stored import open_checkpoint
from dlrm.distributed.collectives import OneProcess
from dlrm.errors import CheckpointError
from dlrm.remote.objects import StoreError
from tests.support.storage_faults import FaultySystem
from tests.unit.checkpoint.campaign import Run
from tests.unit.checkpoint.delta.deltas import normal_state, save_delta
from tests.unit.checkpoint.states import blank, gathered, save_ranks, uncut

AWAY = ("ESTALE", "ETIMEDOUT", "EIO", "EACCES", "ENOTCONN", "EHOSTDOWN")
READING = ("listdir", "lstat", "open", "preadv", "fstat")


class Away(FaultySystem):
    """Stands for the module ``os``: the first ``times`` calls of a name fail."""

    def __init__(self, name, code, times):
        super().__init__()
        self._name, self._code, self.times, self.failed = name, getattr(errno, code), times, 0

    def __getattr__(self, name):
        real = getattr(os, name)

        def call(*args, **options):
            if self.failed < self.times:
                self.failed += 1
                raise OSError(self._code, os.strerror(self._code))
            return real(*args, **options)

        return call if name == self._name else real


@contextmanager
def away(monkeypatch, name, code="ESTALE", times=10**9):
    system = Away(name, code, times)
    with monkeypatch.context() as patch:
        patch.setattr("dlrm.checkpoint.storage.os", system)
        patch.setattr(patience_module, "_FIRST_PAUSE_S", 0.0)
        yield system


@pytest.fixture
def run(tmp_path):
    run = Run(tmp_path / "run", 0)
    run.save(2)
    return run


def load(run, storage=None):
    tensors = uncut(blank(run.states[1]))
    return load_newest(run.folder, tensors, OneProcess(), storage=storage), gathered([tensors])


@pytest.mark.parametrize("code", AWAY)
@pytest.mark.parametrize("name", READING)
def test_what_cannot_be_read_for_a_moment_is_waited_for_and_for_longer_is_an_error_and_no_damage(
    run, name, code, monkeypatch
):
    said = []
    with away(monkeypatch, name, code, times=6) as system:
        resumed, state = load(run, patient(LocalStorage(), Patience(60, said.append)))
    assert system.failed == 6
    assert (resumed.checkpoint.step, resumed.skipped) == (2, [])
    assert state.same_bits_as(run.states[2])
    assert os.strerror(getattr(errno, code)) in said[0]
    assert "waiting up to 60 s" in said[0]
    assert [("waiting" in line, "can be read again" in line) for line in said] == [(True, False), (False, True)]
    with away(monkeypatch, name, code), pytest.raises(UnreachableError, match="nothing was changed") as caught:
        load(run, patient(LocalStorage(), Patience(0, said.append)))
    assert "\n" not in str(caught.value)
    assert len(said) == 2


def test_waiting_ends_after_its_time_with_the_error_itself_and_answers_are_not_waited_for(monkeypatch):
    now, calls = [0.0], []
    monkeypatch.setattr(patience_module.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(patience_module.time, "sleep", lambda seconds: now.append(now.pop() + seconds))

    def fail(error):
        calls.append(now[0])
        raise error

    stale = OSError(errno.ESTALE, "Stale file handle")
    with pytest.raises(OSError, match="Stale") as caught:
        Patience(10, calls.append)(lambda: fail(stale), "there")
    assert caught.value is stale
    assert calls[-1] == 10.0
    calls.clear()
    for error in (
        FileNotFoundError(errno.ENOENT, "x"),
        NotADirectoryError(errno.ENOTDIR, "x"),
        StoreError("denied", "u"),
    ):
        with pytest.raises(OSError):  # noqa: PT011  # any of them, as it is
            Patience(10, print)(lambda error=error: fail(error), "there")
    assert calls == [10.0] * 3


def test_a_store_that_is_busy_may_answer_later_and_one_that_refuses_will_not(s3_settings, monkeypatch):
    from dlrm.remote.s3 import S3Handler, S3Limits
    from tests.unit.checkpoint.remote_runs import failing_requests, refused_requests

    def error_of_a_request():
        with pytest.raises(StoreError) as caught:
            S3Handler(S3Limits(attempts=1)).stat("s3://bucket/key")
        return caught.value

    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    found = {}
    for code in ("SlowDown", "AccessDenied", "InvalidAccessKeyId"):
        with refused_requests(code):
            found[code] = may_pass(error_of_a_request())
    with failing_requests(0, "down"):
        found["down"] = may_pass(error_of_a_request())
    assert found == {"SlowDown": True, "AccessDenied": False, "InvalidAccessKeyId": False, "down": True}


def test_a_file_is_missing_only_where_its_folder_is_listed_without_it(run, monkeypatch):
    path = run.folder / "step_00000002"
    checkpoint = open_checkpoint(path)
    file = next(path.glob("*.safetensors"))
    record = next(record for record in checkpoint.manifest.files if record.name == file.name)
    file.rename(run.folder / "elsewhere")
    with pytest.raises(CheckpointError, match="is missing") as caught:
        checkpoint.check_header(record)
    assert not isinstance(caught.value, UnreachableError)
    with away(monkeypatch, "listdir"), pytest.raises(UnreachableError):
        checkpoint.check_header(record)
    (run.folder / "elsewhere").rename(file)
    with away(monkeypatch, "open", "ENOENT"), pytest.raises(UnreachableError, match="is listed, and cannot be found"):
        checkpoint.check_header(record)


def test_no_folder_is_empty_because_it_cannot_be_listed(run, monkeypatch):
    with away(monkeypatch, "listdir"):
        for look in (checkpoint_paths, newest_good):
            with pytest.raises(UnreachableError, match="Stale file handle"):
                look(run.folder)


def test_what_a_delta_depends_on_is_not_removed_because_the_delta_cannot_be_read(tmp_path, monkeypatch):
    state, rows = normal_state(0), {"a": [1], "b": [2]}
    base = parent = save_ranks(tmp_path, 1, [uncut(state)])
    for step in (2, 3):
        parent = save_delta(tmp_path, step, state, rows, base=base, parent=parent)
    for step in (4, 5, 6):
        save_ranks(tmp_path, step, [uncut(state)])
    before = checkpoint_paths(tmp_path)
    for name in READING:
        with away(monkeypatch, name, times=1), pytest.raises(UnreachableError):
            prune(tmp_path, keep=2, protected=[3])
    assert checkpoint_paths(tmp_path) == before
    prune(tmp_path, keep=2, protected=[3])
    assert [path[-1] for path in checkpoint_paths(tmp_path)] == ["6", "5", "3", "2", "1"]
