"""Whatever became of the files, status says what can be said."""

import json
import random
import shutil

import pytest

from dlrm.config import load_options
from dlrm.config.status import StatusConfig
from dlrm.errors import SetupError
from dlrm.run.status.job import run_status
from dlrm.run.status.text import as_json, as_lines
from tests.unit.run.status.folders import START, beat, end, metrics, start, status

FILES = (
    "processes.jsonl",
    "metrics.jsonl",
    "summary.json",
    "config.yaml",
    "run.json",
    "heartbeat/rank0.json",
    "heartbeat/rank1.json",
    "heartbeat/rank1.ends.jsonl",
)
ODD = (
    b"",
    b"\x00" * 40,
    b"[1, 2]\n",
    b"null\n",
    b'{"kind": "train", "step": 1e400, "loss": NaN}\n',
    b"[" * 1_200,
    b"\xff\xfe{}",
    b'{"time": true, "start": "x", "rank": -1}\n',
    b'{"time": -1e299, "ranks": 999999999999999999999, "launchers": {"a": 1}, "host": "\\u001b[2J"}\n',
)


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    start(folder)
    for rank in (0, 1):
        beat(folder, rank)
    end(folder, 1, "bug", "rank 1 failed: ValueError: boom")
    metrics(folder, {"kind": "train", "step": 40, "loss": 0.5, "samples_per_s": 9.0})
    metrics(folder, {"kind": "validation", "step": 40, "auc": 0.7})
    (folder / "summary.json").write_text('{"stopped": "all epochs trained"}')
    (folder / "config.yaml").write_text("checkpoint: {dir: null}\n")
    return folder


def shown(folder):
    """What a person and a program get, which must be fit for a terminal and for JSON."""
    found = status(folder)
    assert all(line.isprintable() for line in as_lines(found))
    return json.loads(json.dumps(as_json(found), allow_nan=False))


@pytest.mark.parametrize("name", FILES)
def test_a_file_that_is_damaged_or_missing_or_no_file_crashes_nothing(folder, name):
    path = folder / name
    whole = path.read_bytes()
    for content in (*ODD, whole[: len(whole) // 2], whole + whole[:20], whole.replace(b'"', b"'")):
        path.write_bytes(content)
        assert shown(folder)["state"]
    path.unlink()
    assert shown(folder)["state"]
    path.mkdir()
    assert shown(folder)["state"]


def test_files_with_any_byte_changed_crash_nothing(folder):
    draw = random.Random(0)
    for _ in range(60):
        path = folder / draw.choice(FILES)
        whole = path.read_bytes()
        place = draw.randrange(len(whole))
        path.write_bytes(whole[:place] + bytes([draw.randrange(256)]) + whole[place + 1 :])
        assert shown(folder)["state"]
        path.write_bytes(whole)


def test_a_half_written_line_is_left_out(folder):
    for name, line in (("metrics.jsonl", '{"kind": "train", "step": 60, "lo'), ("processes.jsonl", '{"time": 1, "ho')):
        with (folder / name).open("a") as file:
            file.write(line)
    found = shown(folder)
    assert (found["loss"], len(found["attempts"]), found["state"]) == (0.5, 1, "failed")


def test_a_long_file_of_metrics_is_read_from_its_end(folder):
    metrics(folder, *({"kind": "train", "step": step, "loss": step, "samples_per_s": 1.0} for step in range(41, 2500)))
    found = shown(folder)
    assert (found["loss"], found["auc"]) == (2499, 0.7)


def test_of_several_tasks_the_first_is_shown(folder):
    scores = ({"kind": "validation", "step": 80, "task": task, "auc": auc} for task, auc in (("a", 0.8), ("b", 0.6)))
    metrics(folder, {"kind": "train", "step": 80, "loss": 0.4, "samples_per_s": 9.0})
    metrics(folder, {"kind": "train", "step": 80, "task": "a", "loss": 0.1}, *scores)
    found = shown(folder)
    assert (found["loss"], found["auc"], found["auc_step"]) == (0.4, 0.8, 80)


def test_a_folder_that_vanishes_meanwhile_crashes_nothing(folder):
    shutil.rmtree(folder)
    assert shown(folder)["state"] == "starting"


def test_checkpoints_elsewhere_are_looked_for_there(folder, tmp_path):
    (tmp_path / "saved/run/step_00000030").mkdir(parents=True)
    (tmp_path / "saved/run/step_00000030/COMMITTED").write_text("")
    (folder / "config.yaml").write_text(f"checkpoint: {{dir: '{tmp_path}/saved'}}\n")
    assert shown(folder)["checkpoints"]["newest_step"] == 30
    (folder / "config.yaml").write_text("checkpoint: {dir: 's3://bucket/saved'}\n")
    assert shown(folder)["checkpoints"] == {
        "folder": "s3://bucket/saved/run",
        "count": None,
        "newest_step": None,
        "age_s": None,
    }


@pytest.mark.parametrize(("name", "said"), [("none", "is not there"), ("other", "is not the folder of a run")])
def test_what_is_no_run_is_one_line(tmp_path, name, said):
    (tmp_path / "other").mkdir()
    (tmp_path / "other/notes.txt").write_text("")
    with pytest.raises(SetupError, match=said):
        run_status(load_options(StatusConfig, None, [f"path={tmp_path / name}"]))


def test_the_text_says_all_that_a_person_asks_for(folder):
    (folder / "summary.json").unlink()
    beat(folder, 0, still_s=2.0)
    text = "\n".join(as_lines(status(folder)))
    for part in (
        f"{folder}: failed: rank 1 failed: ValueError: boom",
        "40 of 100 (40%), 9 samples/s",
        "0.5000 at step 40",
        "validation 0.70000 at step 40",
        "none yet",
        "rank 1, host b: rank 1 failed: ValueError: boom",
        f"{folder}/log/rank1.log",
        "2 rank(s), rank 0 on a",
    ):
        assert part in text


def test_the_text_names_each_rank_with_its_age_while_it_trains(tmp_path):
    start(tmp_path, START)
    beat(tmp_path, 0, age_s=3.0)
    beat(tmp_path, 1, age_s=4.0, doing="waiting for data", step=41)
    lines = as_lines(status(tmp_path))
    assert lines[-2].split() == ["0", "a", "100", "40", "3", "s", "3", "s", "training"]
    assert lines[-1].split() == ["1", "b", "101", "41", "4", "s", "4", "s", "waiting", "for", "data"]
