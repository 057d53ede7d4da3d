import errno
import json
import os
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from dlrm.run.curves import draw_curves
from dlrm.run.recorder import RunRecorder

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


@pytest.mark.parametrize("number", [errno.EIO, errno.ESTALE, errno.EACCES, errno.EROFS])
def test_a_disk_that_fails_otherwise_does_not_end_the_run_either(tmp_path, full_disk, number):
    warnings = []
    full_disk.update(full=True, errno=number)
    recorder = RunRecorder(tmp_path, tensorboard=False, warn=warnings.append)
    recorder.record(*ENTRIES[0])
    recorder.record(*ENTRIES[1])
    assert len(warnings) == 1
    assert os.strerror(number) in warnings[0]
    full_disk["full"] = False
    recorder.close()
    assert len((tmp_path / "metrics.jsonl").read_text().splitlines()) == 2


def test_events_that_cannot_be_written_are_told_of_once(tmp_path):
    (tmp_path / "tensorboard").write_text("a file in the way")
    warnings = []
    recorder = RunRecorder(tmp_path, tensorboard=True, warn=warnings.append)
    for entry in ENTRIES:
        recorder.record(*entry)
    recorder.close()
    assert [line.partition(":")[0] for line in warnings] == ["warning"]
    assert len((tmp_path / "metrics.jsonl").read_text().splitlines()) == len(ENTRIES)


def test_curves_that_cannot_be_written_do_not_end_the_run(tmp_path):
    (tmp_path / "curves.png").mkdir()
    warnings = []
    recorder = RunRecorder(tmp_path, tensorboard=False, warn=warnings.append)
    recorder.close()
    assert len(warnings) == 1
    assert "curves.png: Is a directory; not written, the run goes on" in warnings[0]


RECORDS = "".join(json.dumps({"kind": k, "step": s, **v}) + "\n" for k, s, v in ENTRIES).encode()


@pytest.mark.parametrize("bit", range(8))
def test_records_with_any_bit_flipped_are_read_as_far_as_they_are_records(tmp_path, bit):
    path = tmp_path / "metrics.jsonl"
    for position in range(bit, len(RECORDS), 8):
        flipped = bytearray(RECORDS)
        flipped[position] ^= 1 << bit
        path.write_bytes(flipped)
        warnings = []
        recorder = RunRecorder(tmp_path, tensorboard=False, step=30, warn=warnings.append)
        recorder.record("train", 31, {"loss": 0.4})
        lines = [json.loads(line) for line in path.read_text().splitlines()]
        assert lines[-1] == {"kind": "train", "step": 31, "loss": 0.4}
        if warnings:
            (kept,) = tmp_path.glob("*.damaged")
            assert kept.read_bytes() == flipped  # nothing is lost
            assert kept.name in warnings[0]
            kept.unlink()


@pytest.mark.parametrize(
    "line", [b"[]", b"1", b"null", b'{"step": "1", "kind": "train"}', b'{"step": 1}', b"\xff\xfe", b"[" * 100_000, b""]
)
def test_lines_that_are_no_records_are_set_aside(tmp_path, line):
    path = tmp_path / "metrics.jsonl"
    content = RECORDS + line + b"\n" + RECORDS
    path.write_bytes(content)
    warnings = []
    RunRecorder(tmp_path, tensorboard=False, step=30, warn=warnings.append)
    assert (tmp_path / "metrics.jsonl.damaged").read_bytes() == content
    assert len(path.read_text().splitlines()) == 6  # twice what was recorded but for the test's scores
    assert "1 line(s) are no records (line 5 is the first)" in warnings[0]


def test_a_last_line_that_a_kill_cut_is_no_damage(tmp_path):
    (tmp_path / "metrics.jsonl").write_bytes(RECORDS[:-30])
    warnings = []
    RunRecorder(tmp_path, tensorboard=False, step=30, warn=warnings.append)
    assert warnings == []
    assert [path.name for path in tmp_path.iterdir()] == ["metrics.jsonl"]


def test_records_that_cannot_be_read_stay_as_they_are(tmp_path, monkeypatch):
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(RECORDS)

    def refuse(path):
        raise OSError(errno.EIO, os.strerror(errno.EIO), str(path))

    monkeypatch.setattr(Path, "read_bytes", refuse)
    warnings = []
    recorder = RunRecorder(tmp_path, tensorboard=False, step=30, warn=warnings.append)
    recorder.record("train", 31, {"loss": 0.4})
    recorder.close()
    monkeypatch.undo()
    assert path.read_bytes() == RECORDS + b'{"kind": "train", "step": 31, "loss": 0.4}\n'
    assert len(warnings) == 1


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
