import threading

import pytest
import torch

from dlrm.checkpoint.folder import newest_good
from dlrm.checkpoint.load import load_tensors
from dlrm.checkpoint.resume import load_newest
from dlrm.checkpoint.retention import prune
from dlrm.checkpoint.saver import AsyncSaver
from dlrm.checkpoint.storage import LocalStorage
from dlrm.checkpoint.stored import open_checkpoint
from dlrm.distributed.collectives import OneProcess
from dlrm.errors import CheckpointError, CheckpointMismatchError
from tests.support.storage_faults import faulty_storage
from tests.unit.checkpoint.states import blank, gathered, random_state, uncut


class Held(LocalStorage):
    """Writes nothing of tensors before it is let."""

    def __init__(self):
        self.let, self.asked = threading.Event(), threading.Event()

    def writer(self, path):
        if path.endswith(".safetensors"):
            self.asked.set()
            assert self.let.wait(30)
        return super().writer(path)


def test_training_goes_on_while_the_state_of_before_is_written(tmp_path):
    storage = Held()
    saver = AsyncSaver(tmp_path, OneProcess(), storage=storage)
    state = random_state(0)
    saved = {name: value.clone() for name, value in state.values.items()}
    tensors = uncut(state)
    saver.reserve(tensors)
    saver.save(1, tensors, {"epoch": 3})
    assert storage.asked.wait(30)
    assert saver.busy
    assert not saver.wait_here(0.01)
    for value in state.values.values():
        value.zero_()
    assert newest_good(tmp_path) == (None, [])
    storage.let.set()
    saver.wait()
    assert not saver.busy
    target = uncut(blank(state))
    checkpoint = open_checkpoint(tmp_path / "step_00000001")
    load_tensors(checkpoint, target)
    assert gathered([target]).same_bits_as(type(state)(saved))
    assert checkpoint.metadata == {"epoch": 3}
    assert saver.last is not None
    assert saver.last.step == 1
    assert saver.last.bytes == sum(value.nbytes for value in saved.values())


def test_metadata_are_those_of_the_moment_of_saving(tmp_path):
    storage = Held()
    saver = AsyncSaver(tmp_path, OneProcess(), storage=storage)
    metadata = {"scores": [1]}
    saver.save(1, [], metadata)
    metadata["scores"].append(2)
    storage.let.set()
    saver.wait()
    assert open_checkpoint(tmp_path / "step_00000001").metadata == {"scores": [1]}


def test_a_second_save_waits_for_the_first(tmp_path):
    storage = Held()
    saver = AsyncSaver(tmp_path, OneProcess(), storage=storage)
    tensors = uncut(random_state(0))
    saver.save(1, tensors, {})
    second = threading.Thread(target=saver.save, args=(2, tensors, {}))
    second.start()
    second.join(0.1)
    assert second.is_alive()
    storage.let.set()
    second.join(30)
    assert newest_good(tmp_path)[0] is not None
    saver.wait()
    found, _ = newest_good(tmp_path)
    assert found is not None
    assert found.step == 2


def test_an_error_behind_is_raised_at_the_next_save_once_and_the_weights_are_as_they_were(tmp_path):
    saver = AsyncSaver(tmp_path, OneProcess())
    state = random_state(0)
    before = type(state)({name: value.clone() for name, value in state.values.items()})
    saver.save(1, uncut(state), {})
    saver.wait()
    with faulty_storage(16, "full disk"):
        saver.save(2, uncut(state), {})
        saver.wait_here()
    assert isinstance(saver.failure, CheckpointError)
    with pytest.raises(CheckpointError, match=r"step_00000002: could not be saved: .*No space left"):
        saver.save(3, uncut(state), {})
    assert state.same_bits_as(before)
    assert [path.name for path in tmp_path.iterdir()] == ["step_00000001"]
    saver.save(3, uncut(state), {})
    saver.wait()
    found, skipped = newest_good(tmp_path, verify=True)
    assert found is not None
    assert (found.step, skipped) == (3, [])


def test_an_error_behind_is_raised_when_it_is_waited_for(tmp_path):
    saver = AsyncSaver(tmp_path, OneProcess())
    with faulty_storage(16, "EIO"):
        saver.save(2, uncut(random_state(0)), {})
        assert saver.wait_here()
    with pytest.raises(CheckpointError, match="Input/output error"):
        saver.wait()
    saver.wait()
    assert list(tmp_path.iterdir()) == []


def test_what_follows_a_commit_is_done_behind_and_told_if_it_fails(tmp_path):
    reports = []

    def prune_and_report(report):
        reports.append(report)
        prune(tmp_path, keep=2)
        if report.step == 4:
            raise RuntimeError("no paper in the printer")

    saver = AsyncSaver(tmp_path, OneProcess(), on_committed=prune_and_report)
    for step in (1, 2, 3, 4):
        saver.save(step, uncut(random_state(step)), {})
    with pytest.raises(CheckpointError, match="was saved, but what follows a save failed: RuntimeError: no paper"):
        saver.wait()
    assert [report.step for report in reports] == [1, 2, 3, 4]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step_00000003", "step_00000004"]


def test_a_step_that_is_there_is_refused_before_anything_is_copied(tmp_path):
    saver = AsyncSaver(tmp_path, OneProcess())
    saver.save(1, [], {})
    saver.wait()
    with pytest.raises(CheckpointError, match="is there already"):
        saver.save(1, [], {})
    saver.wait()
    with pytest.raises(ValueError, match="JSON"):
        saver.save(2, [], {"loss": float("inf")})


def test_the_newest_that_does_not_fit_is_an_error_and_not_passed_over(tmp_path):
    saver = AsyncSaver(tmp_path, OneProcess())
    saver.save(1, uncut(random_state(0, {"a": ((3,), "float32")})), {})
    saver.save(2, uncut(random_state(0, {"a": ((4,), "float32")})), {})
    saver.wait()
    here = uncut(random_state(1, {"a": ((3,), "float32")}))
    before = here[0].shards[0].tensor.clone()
    with pytest.raises(CheckpointMismatchError):
        load_newest(tmp_path, here, OneProcess())
    assert torch.equal(here[0].shards[0].tensor.isnan(), before.isnan())
    resumed = load_newest(tmp_path, here, OneProcess(), strict=False)
    assert resumed.checkpoint is not None
    assert (resumed.checkpoint.step, len(resumed.left)) == (2, 1)
    assert load_newest(tmp_path / "nowhere", here, OneProcess()).checkpoint is None
