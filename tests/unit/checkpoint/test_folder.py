import errno
import json
import os
import subprocess
import sys

import pytest

from dlrm.checkpoint.folder import checkpoint_paths, newest_good, set_aside
from dlrm.checkpoint.names import checkpoint_name, is_discarded, is_working, new_token, step_of, working_path
from dlrm.checkpoint.owner import is_surely_dead, this_process
from dlrm.checkpoint.retention import ABANDONED_S, prune
from dlrm.checkpoint.save import prepare
from dlrm.checkpoint.storage import LocalStorage
from dlrm.errors import CheckpointError
from tests.unit.checkpoint.delta.deltas import normal_state, save_delta
from tests.unit.checkpoint.states import random_state, save_ranks, uncut


def save(folder, *steps):
    for step in steps:
        save_ranks(folder, step, [uncut(random_state(step))])


def steps_in(folder):
    return [step_of(os.path.basename(path)) for path in checkpoint_paths(folder)]


def test_names_say_the_step_and_nothing_else_is_taken_for_a_checkpoint():
    assert checkpoint_name(1200) == "step_00001200"
    assert [step_of(checkpoint_name(step)) for step in (0, 7, 10**8, 10**12)] == [0, 7, 10**8, 10**12]
    for name in (
        "step_1200",
        "step_00001200 ",
        "step_000001200",
        "Step_00001200",
        "step_-0001200",
        "step_00001200.tmp-a",
    ):
        assert step_of(name) is None
    assert is_working(os.path.basename(working_path("step_00001200", new_token())))
    assert not is_working("step_00001200")
    assert not is_discarded("step_00001200")


def test_the_newest_is_that_of_the_largest_step(tmp_path):
    assert newest_good(tmp_path / "nowhere") == (None, [])
    save(tmp_path, 5, 200, 30)
    (tmp_path / "notes.txt").touch()
    assert steps_in(tmp_path) == [200, 30, 5]
    found, skipped = newest_good(tmp_path)
    assert found is not None
    assert (found.step, skipped) == (200, [])
    older, _ = newest_good(tmp_path, before=200)
    assert older is not None
    assert older.step == 30


def test_one_that_cannot_be_removed_keeps_no_other_but_what_it_depends_on(tmp_path, monkeypatch):
    state = normal_state(0)
    for step in (10, 20):  # two chains: 10, 11, 12 and 20, 21, 22
        base = parent = save_ranks(tmp_path, step, [uncut(state)])
        for number in (1, 2):
            rows = {"a": [number], "b": [number]}
            parent = save_delta(tmp_path, step + number, state, rows, base=base, parent=parent)
    save(tmp_path, 30, 40)
    rename = LocalStorage.rename_folder

    def refuse(storage, old, new):
        if old.endswith(("11", "22")):
            raise PermissionError(errno.EPERM, os.strerror(errno.EPERM), old)
        rename(storage, old, new)

    with monkeypatch.context() as patched:
        patched.setattr(LocalStorage, "rename_folder", refuse)
        with pytest.raises(CheckpointError, match="step_00000022: Operation not permitted"):
            prune(tmp_path, keep=2)
    assert steps_in(tmp_path) == [40, 30, 22, 21, 20, 11, 10]
    prune(tmp_path, keep=2)
    assert steps_in(tmp_path) == [40, 30]


def test_what_was_not_committed_is_skipped_and_cleared_away_when_its_step_is_saved_again(tmp_path):
    save(tmp_path, 1, 2)
    (tmp_path / "step_00000002" / "COMMITTED").unlink()
    found, skipped = newest_good(tmp_path)
    assert found is not None
    assert found.step == 1
    assert "no COMMITTED" in skipped[0].why
    save(tmp_path, 2)
    assert newest_good(tmp_path, verify=True)[1] == []
    assert steps_in(tmp_path) == [2, 1]


def test_a_checkpoint_is_never_overwritten(tmp_path):
    save(tmp_path, 1)
    before = {path: path.read_bytes() for path in (tmp_path / "step_00000001").iterdir()}
    with pytest.raises(CheckpointError, match="is there already, and nothing is overwritten"):
        save(tmp_path, 1)
    (tmp_path / "step_00000002").write_text("a file of somebody")
    with pytest.raises(CheckpointError, match="is there already"):
        save(tmp_path, 2)
    assert {path: path.read_bytes() for path in (tmp_path / "step_00000001").iterdir()} == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step_00000001", "step_00000002"]


def test_a_damaged_checkpoint_that_is_set_aside_makes_way_for_its_step(tmp_path):
    save(tmp_path, 1)
    aside = set_aside(str(tmp_path / "step_00000001"))
    assert newest_good(tmp_path) == (None, [])
    save(tmp_path, 1)
    assert os.path.exists(os.path.join(aside, "COMMITTED"))
    assert prune(tmp_path, keep=2) == []
    assert os.path.exists(aside)
    with pytest.raises(CheckpointError, match="No such file"):
        set_aside(str(tmp_path / "step_00000009"))


def test_the_newest_and_the_protected_are_kept(tmp_path):
    save(tmp_path, 1, 2, 3, 4, 5)
    removed = prune(tmp_path, keep=2, protected={2})
    assert [os.path.basename(path) for path in removed] == ["step_00000003", "step_00000001"]
    assert steps_in(tmp_path) == [5, 4, 2]
    assert prune(tmp_path, keep=2, protected={2}) == []
    assert prune(tmp_path / "nowhere", keep=2) == []
    with pytest.raises(ValueError, match="keep is 1"):
        prune(tmp_path, keep=1)


def test_damaged_checkpoints_neither_count_nor_go(tmp_path):
    save(tmp_path, 1, 2, 3, 4)
    (tmp_path / "step_00000004" / "manifest.json").write_text("{}")
    prune(tmp_path, keep=2)
    assert steps_in(tmp_path) == [4, 3, 2]


def test_a_removal_that_is_killed_leaves_nothing_that_is_taken_for_a_checkpoint(tmp_path, monkeypatch):
    save(tmp_path, 1, 2, 3)

    class Dead(BaseException):
        pass

    def killed(self, path):
        os.unlink(os.path.join(path, "rank_0000.safetensors"))
        raise Dead

    with monkeypatch.context() as patch:
        patch.setattr(LocalStorage, "remove_folder", killed)
        with pytest.raises(Dead):
            prune(tmp_path, keep=2)
    assert steps_in(tmp_path) == [3, 2]
    assert len(list(tmp_path.iterdir())) == 3
    prune(tmp_path, keep=2)
    assert len(list(tmp_path.iterdir())) == 2


BEGIN = "import sys; from dlrm.checkpoint.save import prepare; from dlrm.checkpoint.storage import LocalStorage; "
BEGIN += "prepare(LocalStorage(), sys.argv[1], 7)"


def test_what_a_dead_save_has_left_goes_and_a_living_one_is_let_alone(tmp_path):
    save(tmp_path, 1)
    subprocess.run([sys.executable, "-c", BEGIN, str(tmp_path)], check=True)
    dead = [path.name for path in tmp_path.iterdir() if is_working(path.name)]
    assert len(dead) == 1
    alive = working_path("step_00000008", prepare(LocalStorage(), str(tmp_path), 8))
    prune(tmp_path, keep=2)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step_00000001", alive]


def test_what_cannot_be_known_to_be_dead_goes_after_a_day_without_a_change(tmp_path):
    elsewhere = tmp_path / working_path("step_00000007", new_token())
    elsewhere.mkdir()
    (elsewhere / "owner.json").write_text(json.dumps({"place": "another boot", "pid": 1, "started": 1}))
    foreign = tmp_path / "step_00000007.tmp-mine"
    foreign.mkdir()
    prune(tmp_path, keep=2)
    assert elsewhere.exists()
    for path in (elsewhere / "owner.json", elsewhere, foreign):
        os.utime(path, times=(0, path.stat().st_mtime - ABANDONED_S - 60))
    prune(tmp_path, keep=2)
    assert not elsewhere.exists()
    assert foreign.exists()


def test_a_process_is_dead_when_its_number_belongs_to_none_or_to_a_younger_one():
    me = json.loads(this_process())
    assert not is_surely_dead(this_process())
    assert is_surely_dead(json.dumps({**me, "started": me["started"] - 1}).encode())
    ended = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, check=True)
    assert is_surely_dead(json.dumps({**me, "pid": int(ended.stdout)}).encode())
    for unknown in (b"", b"[]", b"{}", b"\xff", json.dumps({**me, "place": None, "pid": 1}).encode(), b"[" * 10**5):
        assert not is_surely_dead(unknown)
    assert not is_surely_dead(json.dumps({**me, "place": "elsewhere", "started": 1}).encode())


def test_a_folder_that_is_reached_through_a_link_is_used(tmp_path):
    (tmp_path / "scratch").mkdir()
    (tmp_path / "run").symlink_to(tmp_path / "scratch")
    save(tmp_path / "run", 1, 2, 3)
    with pytest.raises(CheckpointError, match="is there already"):
        save(tmp_path / "run", 3)
    assert len(prune(tmp_path / "run", keep=2)) == 1
    assert steps_in(tmp_path / "scratch") == [3, 2]
