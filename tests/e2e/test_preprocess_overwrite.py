"""Starting over: what may be overwritten, when the old data set goes, and with what a begun job goes on."""

import itertools

import pytest

from dlrm.errors import ConfigError, DataError
from tests.e2e.faulty_disk import fail_at
from tests.unit.preprocess.tiny_criteo import contents, make, write_raw


def test_what_others_keep_in_the_output_s_folder_stays(raw, tmp_path):
    """Also where the job is refused, and where it starts over."""
    mine = [tmp_path / "out" / folder / "thesis.txt" for folder in ("work", "vocabulary", "preprocess.work/mine")]
    for path in mine:
        path.parent.mkdir(parents=True)
        path.write_text("months of it")
    with pytest.raises(ConfigError):
        make(raw, tmp_path / "out", split={"train": ["day_9"]})
    make(raw, tmp_path / "out")
    make(raw, tmp_path / "out", overwrite=True)
    assert [path.read_text() for path in mine] == ["months of it"] * 3


def test_a_damaged_data_set_is_made_anew_where_it_may_be_overwritten(reference, raw, tmp_path):
    shuffle, folder = reference
    output = make(raw, tmp_path / "out", shuffle=shuffle)
    path = output / "day_1_dense.npy"
    damaged = bytearray(path.read_bytes())
    damaged[-1] ^= 1
    path.write_bytes(damaged)
    make(raw, output, shuffle=shuffle, overwrite=True)
    assert contents(output) == contents(folder)


def spoil(raw, day, row=40):
    """Make a row malformed, in a later chunk than the first."""
    lines = (raw / f"day_{day}").read_text().splitlines(keepends=True)
    lines[row] = "1\t2\t3\tzz\t\t\n"
    (raw / f"day_{day}").write_text("".join(lines))


def chunks_of(output):
    return {p: p.stat().st_mtime_ns for p in (output / "preprocess.work" / "raw").rglob("[0-9]*") if p.is_file()}


def test_a_job_that_a_malformed_row_has_stopped_goes_on_without_such_rows(tmp_path):
    raw = write_raw(tmp_path / "raw")
    spoil(raw, 1)
    spoil(raw, 2, row=20)
    with pytest.raises(DataError, match=r"row 41, column cat_0: .*bad_rows=skip"):
        make(raw, tmp_path / "out", workers=1)
    before = chunks_of(tmp_path / "out")
    assert before
    assert not fail_at(raw, tmp_path / "out", 12, bad_rows="skip")
    assert before.items() < chunks_of(tmp_path / "out").items()
    make(raw, tmp_path / "out", bad_rows="skip")
    assert contents(tmp_path / "out") == contents(make(raw, tmp_path / "anew", bad_rows="skip"))


def test_a_job_that_leaves_rows_out_does_not_go_on_as_if_it_had_not(tmp_path):
    raw = write_raw(tmp_path / "raw")
    spoil(raw, 0)
    assert not fail_at(raw, tmp_path / "out", 40, bad_rows="skip")
    with pytest.raises(ConfigError, match='bad_rows: "skip" -> "error"'):
        make(raw, tmp_path / "out")


def test_a_job_that_has_parsed_nothing_yet_may_begin_anew_with_anything(tmp_path):
    raw = write_raw(tmp_path / "raw")
    for day in range(3):
        spoil(raw, day, row=0)
    with pytest.raises(DataError, match="column cat_0"):
        make(raw, tmp_path / "out", workers=1, chunk_bytes=1 << 20)
    write_raw(raw)
    make(raw, tmp_path / "out", dense={"shift": 5}, shuffle=True)
    assert contents(tmp_path / "out") == contents(make(raw, tmp_path / "other", dense={"shift": 5}, shuffle=True))


def test_a_malformed_row_in_the_new_input_leaves_the_old_data_set_as_it_was(raw, tmp_path):
    output = make(raw, tmp_path / "out")
    before = contents(output)
    other = write_raw(tmp_path / "other", rows=(20, 30, 50))
    spoil(other, 2)
    with pytest.raises(DataError, match="column cat_0"):
        make(other, output, overwrite=True)
    assert before.items() <= contents(output).items()


def test_an_overwriting_job_goes_on_from_any_moment_and_keeps_the_old_set_until_all_is_parsed(raw, tmp_path):
    """A data set with a manifest is whole, and while there is none the new input is parsed: its chunks are counted."""
    old = contents(make(raw, tmp_path / "old"))
    wanted = contents(make(raw, tmp_path / "wanted", dense={"shift": 5}))
    whole = 0
    for at in itertools.count(3, step=9):
        output = make(raw, tmp_path / str(at))
        change = {"dense": {"shift": 5}, "overwrite": True}
        if fail_at(raw, output, at, **change):
            break
        if (output / "dataset.json").exists():
            there = contents(output).items()
            assert old.items() <= there or wanted.items() <= there, at
            whole += old.items() <= there
        else:
            assert len(list((output / "preprocess.work" / "raw").glob("*/counts.json"))) == 3, at
        before = chunks_of(output)
        make(raw, output, keep_work=True, **change)
        assert {p.parent.name for p in before} <= {p.parent.name for p in chunks_of(output)}
        found = {name: sha for name, sha in contents(output).items() if not name.startswith("preprocess.work")}
        assert found == wanted, at
    assert whole >= 3


def test_an_overwriting_job_that_was_interrupted_goes_on_without_being_told_again(raw, tmp_path):
    output = make(raw, tmp_path / "out")
    assert not fail_at(raw, output, 20, dense={"shift": 5}, overwrite=True)
    with pytest.raises(ConfigError, match=r"was begun with other parameters \(dense\.shift: 5\.0 -> 6\.0\)"):
        make(raw, output, dense={"shift": 6})
    make(raw, output, dense={"shift": 5})
    assert contents(output) == contents(make(raw, tmp_path / "other", dense={"shift": 5}))


def test_a_disk_without_room_for_both_data_sets_is_said_and_the_old_one_stays(raw, tmp_path, monkeypatch):
    output = make(raw, tmp_path / "out")
    before = contents(output)
    monkeypatch.setattr("shutil.disk_usage", lambda path: type("Usage", (), {"free": 1000}))
    with pytest.raises(DataError, match=r"beside the data set that is to be replaced; .*or remove the old data set"):
        make(raw, output, overwrite=True)
    assert contents(output) == before
