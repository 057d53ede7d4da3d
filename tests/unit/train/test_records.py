import errno
import json
import os
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from dlrm.train.records import RunRecorder, draw_curves

ENTRIES = [
    ("train", 10, {"loss": 0.5, "samples_per_s": 1000.0, "epoch": 0}),
    ("validation", 10, {"auc": None, "log_loss": 0.6}),
    ("validation", 20, {"auc": 0.75, "log_loss": 0.5}),
    ("test", 20, {"auc": 0.7, "log_loss": 0.55, "best_reachable_auc": 0.8}),
]


def test_every_entry_is_a_line_and_every_number_a_tensorboard_scalar(tmp_path):
    recorder = RunRecorder(tmp_path, tensorboard=True)
    for entry in ENTRIES:
        recorder.record(*entry)
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()  # there before the run ends
    recorder.close()
    assert [json.loads(line) for line in lines] == [{"kind": k, "step": s, **v} for k, s, v in ENTRIES]
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert [(e.step, round(e.value, 6)) for e in events.Scalars("validation/log_loss")] == [(10, 0.6), (20, 0.5)]
    assert [e.step for e in events.Scalars("validation/auc")] == [20]
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")


def test_curves_show_what_was_recorded():
    entries = [{"kind": kind, "step": step, **values} for kind, step, values in ENTRIES]
    loss, auc, speed = draw_curves(entries).axes
    assert {line.get_label(): list(line.get_ydata()) for line in loss.lines} == {
        "training": [0.5],
        "validation": [0.6, 0.5],
        "test": [0.55],
    }
    assert {line.get_label() for line in auc.lines} == {"validation", "test", "best reachable (test)"}
    assert list(speed.lines[0].get_ydata()) == [1000.0]


def test_curves_of_a_run_without_any_entry_can_be_drawn():
    assert [len(axes.lines) for axes in draw_curves([]).axes] == [0, 0, 0]


@pytest.fixture
def full_disk(monkeypatch):
    """Files cannot be opened for writing while this says so."""
    state, real = {"full": False, "errno": errno.ENOSPC}, Path.open

    def opened(path, mode="r", *args, **options):
        if state["full"] and "r" not in mode:
            raise OSError(state["errno"], os.strerror(state["errno"]), str(path))
        return real(path, mode, *args, **options)

    monkeypatch.setattr(Path, "open", opened)
    return state


def test_on_a_full_disk_training_goes_on_and_nothing_is_missing_when_there_is_room_again(tmp_path, full_disk):
    warnings = []
    recorder = RunRecorder(tmp_path, tensorboard=False, warn=warnings.append)
    for number, entry in enumerate(ENTRIES):
        full_disk["full"] = number in (1, 2)
        recorder.record(*entry)
    recorder.close()
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == [{"kind": k, "step": s, **v} for k, s, v in ENTRIES]
    assert len(warnings) == 1
    assert "No space left on device" in warnings[0]


def test_a_disk_that_fails_otherwise_ends_the_run(tmp_path, full_disk):
    recorder = RunRecorder(tmp_path, tensorboard=False)
    full_disk.update(full=True, errno=errno.EIO)
    with pytest.raises(OSError, match="Input/output error"):
        recorder.record(*ENTRIES[0])


def test_events_of_an_earlier_start_without_a_checkpoint_are_forgotten(tmp_path):
    first = RunRecorder(tmp_path, tensorboard=True)
    first.record("train", 10, {"loss": 9.0})
    first.close()
    again = RunRecorder(tmp_path, tensorboard=True)
    again.record("train", 5, {"loss": 1.0})
    again.close()
    assert [json.loads(line)["step"] for line in (tmp_path / "metrics.jsonl").read_text().splitlines()] == [5]
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert [event.step for event in events.Scalars("train/loss")] == [5]
