"""The same command goes on where it was; with anything else it says so and mixes nothing."""

import os
import shutil

import pytest

from dlrm.errors import DataError
from dlrm.inference.predict import score
from dlrm.inference.predict.work import WorkFolder, locked
from tests.support.predicting import predict_alone


class Enough(Exception):  # noqa: N818  # no error
    """Ends a job in the middle."""


@pytest.fixture
def scored(monkeypatch):
    """What was scored: index and rows of each block. After ``limit`` blocks the job is over."""
    found, real = [], score.part_of

    def counting(block, *arguments, **keywords):
        if len(found) == counting.limit:
            raise Enough
        found.append((block.index, block.rows))
        return real(block, *arguments, **keywords)

    counting.limit = None
    monkeypatch.setattr(score, "part_of", counting)
    return found, counting


def interrupted(forms, output, scored, blocks, **changes):
    """Begin an output and end after so many blocks."""
    found, counting = scored
    counting.limit = len(found) + blocks
    with pytest.raises(Enough):
        predict_alone(forms, output, threads=1, **changes)
    counting.limit = None
    del found[:]


@pytest.mark.parametrize("form", ["raw", "gz", "packed", "parquet"])
def test_what_was_finished_is_not_scored_again(forms, tmp_path, scored, form):
    expected = predict_alone(forms, tmp_path / "a.csv", form).read_bytes()
    found, _ = scored
    blocks = len(found)
    del found[:]
    interrupted(forms, tmp_path / "b.csv", scored, 3, form=form)
    assert predict_alone(forms, tmp_path / "b.csv", form).read_bytes() == expected
    assert len(found) == blocks - 3
    assert sorted(os.listdir(tmp_path)) == ["a.csv", "a.csv.metrics.json", "b.csv", "b.csv.metrics.json"]


def test_another_number_of_threads_or_rows_of_a_block_goes_on(forms, tmp_path, scored):
    expected = predict_alone(forms, tmp_path / "a.npy").read_bytes()
    interrupted(forms, tmp_path / "b.npy", scored, 2)
    assert predict_alone(forms, tmp_path / "b.npy", threads=3, chunk_rows=1000).read_bytes() == expected
    assert max(rows for _, rows in scored[0]) < 400


CHANGES = {
    "options": ({"logits": True}, "other options (logits: false -> true)"),
    "two options": (
        {"logits": True, "labels": "true"},
        'other options (labels: "auto" -> "true", logits: false -> true)',
    ),
    "input": ({"touch": True}, "another input: INPUT/day_1 was modified since"),
    "inputs": ({"input": ["INPUT/day_1"]}, "other inputs (INPUT/day_0 is gone)"),
    "order": ({"input": ["INPUT/day_1", "INPUT/day_0"]}, "its inputs in another order"),
    "export": ({"export": True}, "another export"),
}


@pytest.mark.parametrize("name", CHANGES)
def test_what_has_changed_is_said_and_nothing_is_mixed(forms, tmp_path, scored, name):
    changes, words = CHANGES[name]
    changes = dict(changes)
    raw, output = tmp_path / "raw", tmp_path / "b.npy"
    shutil.copytree(forms.raw, raw)
    interrupted(forms, output, scored, 3, input=[str(raw)])
    if changes.pop("touch", False):
        os.utime(raw / "day_1")
    if changes.get("export"):
        from tests.support.exports import export

        export(forms.run, tmp_path / "other", average=False, max_file_bytes=1000)
        changes["export"] = str(tmp_path / "other")
    given = {"input": [str(raw)], **changes}
    given["input"] = [name.replace("INPUT", str(raw)) for name in given["input"]]
    with pytest.raises(DataError) as caught:
        predict_alone(forms, output, **given)
    hint = f"remove {output}.parts or set overwrite to true to start over, or choose another output"
    assert str(caught.value) == f"{output}: was begun with {words.replace('INPUT', str(raw))}; {hint}"
    del scored[0][:]
    predict_alone(forms, output, **given, overwrite=True, chunk_rows=1000)
    assert len(scored[0]) == (1 if name == "inputs" else 2)  # a block a file: nothing of what was begun is left
    assert output.read_bytes() == predict_alone(forms, tmp_path / "c.npy", **given).read_bytes()


def test_rows_may_be_skipped_after_one_has_stopped_the_job(forms, tmp_path, scored):
    lines = [*forms.lines[:300], b"no row", *forms.lines[300:]]
    (tmp_path / "a").write_bytes(b"\n".join(lines))
    given = {"input": [str(tmp_path / "a")], "threads": 1}
    with pytest.raises(DataError, match=r"row 301: row has 1 column.*bad_rows skip goes on without such rows"):
        predict_alone(forms, tmp_path / "b.npy", **given)
    before = len(scored[0])
    predict_alone(forms, tmp_path / "b.npy", **given, bad_rows="skip")
    assert 0 not in [index for index, _ in scored[0][before:]]
    whole = predict_alone(forms, tmp_path / "c.npy", **given, bad_rows="skip")
    assert whole.read_bytes() == (tmp_path / "b.npy").read_bytes()


def test_a_job_that_has_done_nothing_yet_counts_for_nothing(forms, tmp_path, scored):
    interrupted(forms, tmp_path / "a.npy", scored, 0)
    assert (tmp_path / "a.npy.parts" / "state.json").exists()
    predict_alone(forms, tmp_path / "a.npy", "packed", logits=True)
    assert sorted(os.listdir(tmp_path)) == ["a.npy", "a.npy.metrics.json"]


def test_an_output_that_is_there_is_replaced_only_where_that_is_asked_for(forms, tmp_path, scored):
    output = tmp_path / "a.npy"
    output.write_bytes(b"mine")
    with pytest.raises(DataError, match=r"a\.npy: is there already; set overwrite to true to replace it"):
        predict_alone(forms, output)
    assert os.listdir(tmp_path) == ["a.npy"]
    interrupted(forms, output, scored, 2, overwrite=True)
    assert output.read_bytes() == b"mine"
    predict_alone(forms, output, overwrite=True)
    assert output.read_bytes() == predict_alone(forms, tmp_path / "b.npy").read_bytes()


def test_a_second_process_is_refused(forms, tmp_path):
    with (
        locked(WorkFolder(tmp_path / "a.npy")),
        pytest.raises(DataError, match=r"a\.npy: another process is writing it; wait for it to end"),
    ):
        predict_alone(forms, tmp_path / "a.npy")
    predict_alone(forms, tmp_path / "a.npy")


def test_an_output_whose_parts_were_not_removed_yet_is_whole(forms, tmp_path, monkeypatch, capsys, scored):
    monkeypatch.setattr(WorkFolder, "remove", lambda self: None)
    predict_alone(forms, tmp_path / "a.npy")
    monkeypatch.undo()
    before = (tmp_path / "a.npy").stat().st_mtime_ns
    predict_alone(forms, tmp_path / "a.npy")
    assert capsys.readouterr().out.endswith("a.npy is complete already\n")
    assert (tmp_path / "a.npy").stat().st_mtime_ns == before
    assert sorted(os.listdir(tmp_path)) == ["a.npy", "a.npy.metrics.json"]


def test_a_damaged_part_is_named(forms, tmp_path, scored):
    interrupted(forms, tmp_path / "a.npy", scored, 3)
    part = min((tmp_path / "a.npy.parts").glob("*.arrow"))
    part.write_bytes(part.read_bytes()[:100])
    with pytest.raises(DataError, match=f"{part}: is damaged; remove {tmp_path}/a.npy.parts to start over"):
        predict_alone(forms, tmp_path / "a.npy")


def test_strangers_files_in_the_work_folder_stay(forms, tmp_path):
    (tmp_path / "a.npy.parts").mkdir()
    (tmp_path / "a.npy.parts" / "mine.txt").write_text("mine")
    predict_alone(forms, tmp_path / "a.npy")
    assert os.listdir(tmp_path / "a.npy.parts") == ["mine.txt"]
