"""Preprocessing as a whole: what comes out, and that it does not depend on what happened on the way."""

import itertools
import os
import time

import numpy as np
import pytest
import torch

from dlrm.counter_rng import random_bits, stream_key
from dlrm.data.packed.manifest import parse_manifest
from dlrm.errors import ConfigError, DataError
from tests.unit.preprocess.tiny_criteo import (
    ROWS,
    arrays,
    contents,
    expected,
    make,
    make_rows,
    write_raw,
)  # fmt: skip

DAYS = [make_rows(count, seed=day) for day, count in enumerate(ROWS)]
TRAINING = DAYS[0] + DAYS[1]


def assert_equal(found, wanted):
    for one, other in zip(found, wanted, strict=True):
        np.testing.assert_array_equal(one, other, strict=True)


def test_parts_are_what_the_recipe_in_plain_python_gives(raw, tmp_path):
    output = make(raw, tmp_path / "out")
    for day, rows in enumerate(DAYS):
        dense, ids, labels = expected(rows, TRAINING)
        found_dense, found_ids, found_labels = arrays(output, f"day_{day}")
        np.testing.assert_allclose(found_dense, dense, rtol=1e-6)
        assert_equal((found_ids, found_labels), (ids, labels))


def test_the_manifest_says_what_there_is(raw, tmp_path):
    output = make(raw, tmp_path / "out")
    manifest = parse_manifest((output / "dataset.json").read_text(), "dataset.json")
    for part, rows in zip(manifest.parts, DAYS, strict=True):
        assert part.rows == len(rows)
        assert part.clicks == sum(fields[0] == "1" for fields in rows)
        assert part.missing == {f"cat_{i}": sum(not f[3 + i] for f in rows) for i in range(3)}
    assert [(s.part, s.start, s.stop) for s in manifest.split["validation"]] == [("day_2", 0, 17)]
    assert manifest.sparse[2].rows == 2 + len({fields[5] for fields in TRAINING if fields[5]})
    assert manifest.preprocessing["sources"][0] == {
        "name": "day_0", "bytes": (raw / "day_0").stat().st_size, "rows": ROWS[0], "rows_skipped": 0,
        "missing": {**{f"int_{i}": sum(not f[1 + i] for f in DAYS[0]) for i in range(2)}, **manifest.parts[0].missing},
    }  # fmt: skip
    assert str(tmp_path) not in (output / "dataset.json").read_text()
    assert not (output / "preprocess.work").exists()


def shuffled(places, seed):
    """Rows of files, given by (file, line), in the order of their random 64-bit keys."""
    keys = {}
    for file in range(len(DAYS)):
        bits = random_bits(stream_key(seed, "preprocess", "shuffle", file), torch.arange(len(DAYS[file])))
        keys |= {(file, line): int(key) % 2**64 for line, key in enumerate(bits)}
    return [DAYS[file][line] for file, line in sorted(places, key=keys.__getitem__)]


def test_training_rows_go_where_their_keys_say_and_others_stay(raw, tmp_path):
    output = make(raw, tmp_path / "out", shuffle=True, seed=5)
    order = shuffled([(file, line) for file in (0, 1) for line in range(ROWS[file])], seed=5)
    assert order != TRAINING
    for day, rows in enumerate((order[: ROWS[0]], order[ROWS[0] :], DAYS[2])):
        dense, ids, labels = expected(rows, TRAINING)
        found_dense, found_ids, found_labels = arrays(output, f"day_{day}")
        np.testing.assert_allclose(found_dense, dense, rtol=1e-6)
        assert_equal((found_ids, found_labels), (ids, labels))
        manifest = parse_manifest((output / "dataset.json").read_text(), "dataset.json")
        assert manifest.parts[day].clicks == labels.sum()
        assert manifest.parts[day].missing["cat_1"] == (ids[:, 1] == 0).sum()


def test_one_sequence_of_rows_is_cut_into_days_of_equal_size(raw, tmp_path):
    split = {"train": ["day_0..day_4"], "validation": ["day_5[:0.5]"], "test": ["day_5[0.5:]", "day_6"]}
    output = make(raw, tmp_path / "out", parts={"kind": "days", "days": 7}, split=split)
    rows = [fields for day in DAYS for fields in day]
    sizes = [21] + [20] * 6
    assert sum(sizes) == len(rows) == 141
    training = rows[:101]
    for day, stop in enumerate(itertools.accumulate(sizes)):
        _, ids, labels = expected(rows[stop - sizes[day] : stop], training)
        assert_equal(arrays(output, f"day_{day}")[1:], (ids, labels))


def test_shuffled_training_rows_may_be_any_part_of_a_part(raw, tmp_path):
    split = {"train": ["day_1[10:]", "day_0[:50]"], "validation": ["day_1[:10]"], "test": ["day_2"]}
    output = make(raw, tmp_path / "out", shuffle=True, split=split)
    training = DAYS[1][10:] + DAYS[0][:50]
    places = [*((1, line) for line in range(10, ROWS[1])), *((0, line) for line in range(50))]
    order = shuffled(places, seed=0)
    for day, rows in enumerate((order[37:] + DAYS[0][50:], DAYS[1][:10] + order[:37], DAYS[2])):
        _, ids, labels = expected(rows, training)
        assert_equal(arrays(output, f"day_{day}")[1:], (ids, labels))


OTHER_WAYS = {
    "one worker": {"workers": 1},
    "three workers": {"workers": 3},
    "one chunk": {"chunk_bytes": 1 << 20},
    "chunks of a few rows": {"chunk_bytes": 64},
    "one bucket": {"bucket_rows": 10_000},
    "tiny buckets": {"bucket_rows": 3},
    "kept work": {"keep_work": True},
}


@pytest.mark.parametrize("way", list(OTHER_WAYS))
def test_bytes_do_not_depend_on_how_the_work_is_cut(reference, raw, tmp_path, way):
    shuffle, folder = reference
    output = make(raw, tmp_path / "out", shuffle=shuffle, **OTHER_WAYS[way])
    found = {name: value for name, value in contents(output).items() if not name.startswith("preprocess.work/")}
    assert found == contents(folder)
    assert (output / "preprocess.work").exists() == (way == "kept work")


@pytest.mark.parametrize("kind", ["gz", "zst"])
def test_bytes_do_not_depend_on_how_the_input_is_compressed(reference, tmp_path, kind):
    shuffle, folder = reference
    output = make(write_raw(tmp_path / "raw", kind), tmp_path / "out", shuffle=shuffle)
    assert contents(output) == contents(folder)


def test_a_complete_output_is_left_alone(raw, tmp_path, capsys):
    output = make(raw, tmp_path / "out")
    before = {path: path.stat().st_mtime_ns for path in output.rglob("*")}
    make(raw, output, workers=1, bucket_rows=99, chunk_bytes=64)
    assert "complete already" in capsys.readouterr().out
    assert {path: path.stat().st_mtime_ns for path in output.rglob("*")} == before


def test_other_parameters_are_refused_by_name_unless_they_may_overwrite(raw, tmp_path):
    output = make(raw, tmp_path / "out")
    with pytest.raises(ConfigError, match=r"dense\.shift: 3\.0 -> 4\.0, .*shuffle: false -> true.*overwrite"):
        make(raw, output, shuffle=True, dense={"shift": 4})
    with_shift = make(raw, output, shuffle=True, dense={"shift": 4}, overwrite=True)
    assert contents(with_shift) == contents(make(raw, tmp_path / "anew", shuffle=True, dense={"shift": 4}))


def test_other_sources_are_refused_by_name(tmp_path):
    raw = write_raw(tmp_path / "raw")
    output = make(raw, tmp_path / "out")
    with open(raw / "day_1", "ab") as file:
        file.write(b"1\t\t\t\t\t\n")
    (raw / "day_2").rename(raw / "test")
    with pytest.raises(DataError, match=r"day_1: \d+ -> \d+ bytes, day_2 is gone, test is new"):
        make(raw, output)


def test_a_day_that_is_missing_is_named_before_anything_is_written(tmp_path):
    raw = write_raw(tmp_path / "raw")
    (raw / "day_1").unlink()
    with pytest.raises(DataError, match="part day_1 is missing between day_0 and day_2; fetch its file"):
        make(raw, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_source_that_was_modified_later_is_refused_though_its_size_is_the_same(tmp_path):
    raw = write_raw(tmp_path / "raw")
    output = make(raw, tmp_path / "out")
    later = time.time() + 5
    os.utime(raw / "day_1", (later, later))
    with pytest.raises(DataError, match="day_1 was modified"):
        make(raw, output)


def test_a_folder_with_somebody_elses_data_is_refused(raw, tmp_path):
    output = tmp_path / "out"
    output.mkdir()
    (output / "day_0_dense.npy").write_bytes(b"precious")
    with pytest.raises(DataError, match=r"day_0_dense\.npy already, which this job did not write; move it away"):
        make(raw, output)
    assert [(path.name, path.read_bytes()) for path in output.iterdir()] == [("day_0_dense.npy", b"precious")]


def test_only_one_job_at_a_time_writes_an_output(raw, tmp_path):
    import fcntl

    (tmp_path / "out" / "preprocess.work").mkdir(parents=True)
    with open(tmp_path / "out" / "preprocess.work" / "lock", "ab") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(DataError, match="another job is writing"):
            make(raw, tmp_path / "out")
    make(raw, tmp_path / "out")


def test_where_every_row_was_skipped_the_causes_are_counted(tmp_path):
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw" / "day_0").write_text("1\t2\t1.5\ta\tb\tc\n" * 30 + "1\t2\t3\ta\n" * 20)
    (tmp_path / "raw" / "day_1").write_text("no row\n")
    with pytest.raises(DataError) as error:
        make(tmp_path / "raw", tmp_path / "out", bad_rows="skip")
    assert error.value.problem == (
        "all 51 rows are malformed and were left out (bad_rows: skip): int_1 in 30, number of columns in 20 of the first "
        "50; row 1: is '1.5', not an integer"
    )


def test_a_malformed_row_is_named_and_can_be_mended_or_skipped(tmp_path):
    raw = write_raw(tmp_path / "raw")
    lines = (raw / "day_1").read_text().splitlines(keepends=True)
    lines[40] = "1\t2\t3\tzz\t\t\n"
    (raw / "day_1").write_text("".join(lines))
    with pytest.raises(DataError) as error:
        make(raw, tmp_path / "out")
    assert (error.value.path, error.value.row, error.value.column) == (str(raw / "day_1"), 41, "cat_0")

    output = make(raw, tmp_path / "out", bad_rows="skip")
    manifest = parse_manifest((output / "dataset.json").read_text(), "dataset.json")
    assert [source["rows_skipped"] for source in manifest.preprocessing["sources"]] == [0, 1, 0]
    assert [part.rows for part in manifest.parts] == [61, 46, 33]
    _, ids, labels = expected(DAYS[1][:40] + DAYS[1][41:], DAYS[0] + DAYS[1][:40] + DAYS[1][41:])
    assert_equal(arrays(output, "day_1")[1:], (ids, labels))


def test_too_small_a_disk_is_said_before_anything_is_written(raw, tmp_path, monkeypatch):
    usage = type("Usage", (), {"free": 1000})
    monkeypatch.setattr("shutil.disk_usage", lambda path: usage)
    with pytest.raises(DataError, match=r"GiB are needed, .* GiB are free.*another disk"):
        make(raw, tmp_path / "out")
    assert not list((tmp_path / "out").iterdir())


@pytest.mark.parametrize(
    ("split", "problem"),
    [
        ({"train": ["day_0..day_7"]}, "no part 'day_7'"),
        ({"train": ["day_0[:0.6]"], "test": ["day_0[0.5:]"]}, "train and test share rows"),
    ],
)
def test_a_split_that_can_never_fit_is_refused_before_anything_is_read(raw, tmp_path, split, problem):
    with pytest.raises(ConfigError, match=problem):
        make(raw, tmp_path / "out", split=split)
    assert not list((tmp_path / "out").iterdir())


def test_a_split_by_rows_is_not_refused_for_what_is_only_estimated(raw, tmp_path):
    split = {"train": ["day_0", "day_1[:47]"], "validation": ["day_2[:33]"]}  # all rows there are
    output = make(raw, tmp_path / "out", split=split)
    manifest = parse_manifest((output / "dataset.json").read_text(), "dataset.json")
    assert [span.stop for span in manifest.split["train"]] == [61, 47]


def test_a_complete_output_of_which_a_file_is_gone_is_not_called_complete(raw, tmp_path):
    output = make(raw, tmp_path / "out")
    (output / "day_1_sparse.npy").unlink()
    with pytest.raises(DataError, match=r"day_1_sparse\.npy: is gone; restore it, or set overwrite"):
        make(raw, output)
    again = make(raw, output, overwrite=True)
    assert contents(again) == contents(make(raw, tmp_path / "other"))


def test_input_in_the_folder_of_the_output_is_refused(tmp_path):
    raw = write_raw(tmp_path / "raw")
    with pytest.raises(DataError, match="in the folder of the output"):
        make(raw, raw)
