"""Whatever is put in a checkpoint's place is refused in one line; nothing of it runs, nothing outside is opened."""

import os
import sys

import pytest

from dlrm.checkpoint.folder import newest_good
from dlrm.checkpoint.load import load_tensors
from dlrm.checkpoint.manifest import Record, parse_record
from dlrm.checkpoint.retention import prune
from dlrm.checkpoint.stored import find_damage, open_checkpoint
from dlrm.errors import CheckpointError
from tests.unit.checkpoint.hostile import CASES, Payload, pickled
from tests.unit.checkpoint.states import blank, gathered, random_state, save_ranks, small_chunks, uncut

TABLE = {"a": ((37, 8), "float32")}
_watching: list[list[tuple[str, tuple]]] = []


def _watch(event, args):
    if _watching:
        _watching[-1].append((event, args))


@pytest.fixture
def events():
    """What the interpreter reports of opened files, unpickled classes and started programs."""
    if not getattr(_watch, "added", False):
        sys.addaudithook(_watch)  # can never be removed
        _watch.added = True
    _watching.append([])
    yield _watching[-1]
    _watching.pop()


def tree(folder):
    return {
        path: path.lstat().st_mtime_ns if path.is_dir() else (path.lstat().st_mtime_ns, path.lstat().st_size)
        for path in folder.rglob("*")
    }


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_it_is_refused_in_one_line_and_nothing_else_happens(case, tmp_path, monkeypatch, events):
    small_chunks(monkeypatch, file_bytes=10**6)
    state = random_state(0, TABLE)
    path = save_ranks(tmp_path / "run", 1, [uncut(state)])
    case.damage(path)
    before, tensors = tree(tmp_path), uncut(blank(state))
    events.clear()
    with pytest.raises(CheckpointError) as caught:
        load_tensors(open_checkpoint(path), tensors)
    seen = list(events)
    assert case.says in str(caught.value)
    assert "\n" not in str(caught.value)
    assert str(caught.value).isprintable()
    assert gathered([tensors]).same_bits_as(blank(state))
    assert tree(tmp_path) == before
    inside = os.path.join(path, "")
    for event, args in seen:
        assert event not in ("pickle.find_class", "os.system", "subprocess.Popen", "os.exec", "os.rename", "os.remove")
        if event == "open" and isinstance(args[0], str) and not args[0].endswith((".py", ".pyc")):
            assert args[0].startswith(inside), args
        if event in ("os.listdir", "os.scandir"):
            assert args[0] == str(path)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_the_good_checkpoint_before_it_still_loads(case, tmp_path, monkeypatch):
    small_chunks(monkeypatch, file_bytes=10**6)
    state = random_state(0, TABLE)
    older = save_ranks(tmp_path / "run", 1, [uncut(state)])
    newer = save_ranks(tmp_path / "run", 2, [uncut(state)])
    case.damage(newer)
    found, skipped = newest_good(tmp_path / "run", verify=True)
    assert found is not None
    assert found.path == str(older)
    assert [skip.path for skip in skipped] == [str(newer)]
    assert case.says in skipped[0].why or "is no folder" in skipped[0].why
    assert prune(tmp_path / "run", keep=2) == []
    assert find_damage(found) == []


def test_the_payload_of_these_tests_does_run_where_it_is_unpickled(tmp_path, events):
    import pickle

    (tmp_path / "x").mkdir()
    pickled("p")(tmp_path / "x")
    pickle.loads((tmp_path / "x" / "p").read_bytes())
    assert (tmp_path / "executed").exists()
    assert "pickle.find_class" in [event for event, _ in events]
    assert Payload(tmp_path).command.startswith("touch")


def test_a_link_to_a_checkpoint_is_opened_where_it_is_named_and_not_found_where_it_is_looked_for(tmp_path):
    path = save_ranks(tmp_path / "elsewhere", 1, [uncut(random_state(0, TABLE))])
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "step_00000001").symlink_to(path)
    assert open_checkpoint(tmp_path / "run" / "step_00000001").step == 1
    found, skipped = newest_good(tmp_path / "run")
    assert found is None
    assert "behind links" in skipped[0].why


def test_a_checkpoint_under_the_name_of_another_step_is_not_taken_for_that_step(tmp_path):
    path = save_ranks(tmp_path, 1, [uncut(random_state(0, TABLE))])
    path.rename(tmp_path / "step_00000099")
    found, skipped = newest_good(tmp_path)
    assert found is None
    assert "is of step 1" in skipped[0].why
    assert open_checkpoint(tmp_path / "step_00000099").step == 1


def test_a_record_of_another_format_has_a_version_of_its_own():
    class Other(Record):
        format: str
        version: int

    text = b'{"format": "other", "version": 9}'
    assert parse_record(Other, text, "f", format_name="other", version=9) == Other(format="other", version=9)
    with pytest.raises(CheckpointError, match="has format version 9, this program reads 8"):
        parse_record(Other, text, "f", format_name="other", version=8)
