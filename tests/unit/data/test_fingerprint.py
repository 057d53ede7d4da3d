"""Data that was replaced is noticed, data that was moved is not in the way."""

import os
import shutil
from dataclasses import replace

import numpy as np
import pytest

from dlrm.config.data import CriteoTsvData, PackedData, ParquetData, RandomData
from dlrm.config.data.packed import HashedMultiHot
from dlrm.data.build import build_dataset
from dlrm.data.fingerprint import difference, fingerprint_of
from dlrm.errors import DataError
from tests.unit.data.packed.packed_files import HOTNESS, ROWS, record, write_days, write_manifest
from tests.unit.data.parquet.parquet_files import columns, write

LINES = [f"{i % 2}\t{i}\t1\ta{i:x}\tb\tc\n" for i in range(40)]


def raw(folder, lines=LINES):
    folder.mkdir(parents=True, exist_ok=True)
    for day in range(2):
        (folder / f"day_{day}").write_text("".join(lines[day::2]))
    return CriteoTsvData(paths=[str(folder / "day_0"), str(folder / "day_1")], num_dense=2, num_sparse=3)


def packed(folder, *, manifest=False, **options):
    folder.mkdir(parents=True, exist_ok=True)
    write_days(folder, (50, 40, 30), manifest=manifest)
    return PackedData(path=str(folder), rows=ROWS, **options)


def parquet(folder, order=slice(None)):
    for i in range(2):
        values = {name: column[order] for name, column in columns(50, 50 * i).items()}
        write(folder / "day" / f"train_{i}.parquet", values, compression="none", use_dictionary=False)
    return ParquetData(
        path=str(folder), files={"train": "day/*"}, dense=["x"], sparse=["small", "large"], rows=[100, 1000]
    )


def fingerprint(config):
    return build_dataset(config).train.fingerprint()


@pytest.mark.parametrize("make", [raw, packed, parquet])
def test_data_that_was_copied_touched_or_moved_is_the_same(tmp_path, make):
    before = fingerprint(make(tmp_path / "here"))
    shutil.copytree(tmp_path / "here", tmp_path / "there")  # other inodes and times
    for folder, _, names in os.walk(tmp_path / "there"):
        for name in names:
            os.utime(os.path.join(folder, name), (1, 1))
    (tmp_path / "here").rename(tmp_path / "gone")
    config = make(tmp_path / "elsewhere")
    shutil.rmtree(tmp_path / "elsewhere")
    (tmp_path / "there").rename(tmp_path / "elsewhere")
    assert difference(before, fingerprint(config)) == ""
    assert not any("/" in file.name.replace("day/", "") for file in before)  # no folder of this machine


def test_the_same_rows_in_another_order_are_other_data(tmp_path):
    before = fingerprint(raw(tmp_path / "raw"))
    now = fingerprint(raw(tmp_path / "raw", LINES[2:] + LINES[:2]))
    assert difference(before, now) == "day_0 has other content in as many bytes (and 1 more files differ)"
    before = fingerprint(parquet(tmp_path / "parquet"))
    now = fingerprint(parquet(tmp_path / "parquet", slice(None, None, -1)))
    assert [file.bytes for file in now] == [file.bytes for file in before]  # nothing but the content tells
    assert difference(before, now).startswith("day/train_0.parquet has other content in as many bytes (and 1 more")


@pytest.mark.parametrize("kind", ["dense", "sparse", "labels"])
def test_each_file_of_a_packed_part_counts(tmp_path, kind):
    config = packed(tmp_path)
    before = fingerprint(config)
    assert [file.name for file in before[:3]] == ["day_0_dense.npy", "day_0_sparse.npy", "day_0_labels.npy"]
    path = tmp_path / f"day_1_{kind}.npy"
    np.save(path, np.load(path)[::-1].copy())
    assert difference(before, fingerprint(config)) == f"day_1_{kind}.npy has other content in as many bytes"
    np.save(tmp_path / "day_2_dense.npy", np.load(tmp_path / "day_2_dense.npy")[::-1].copy())  # is not trained on
    assert difference(before, fingerprint(config)).count("day_") == 1


def test_checksums_of_the_manifest_tell_where_the_files_are_not_looked_at(tmp_path):
    before = fingerprint(packed(tmp_path / "a", manifest=True))
    bare = fingerprint(packed(tmp_path / "b"))
    assert before[0].sha256
    assert not bare[0].sha256
    assert difference(before, bare) == difference(bare, before) == ""  # the same files without dataset.json
    (tmp_path / "a" / "dataset.json").unlink()
    manifest = record(tmp_path / "a", (50, 40, 30))
    files = {kind: file.model_copy(update={"sha256": "0" * 64}) for kind, file in manifest.parts[0].files.items()}
    first = manifest.parts[0].model_copy(update={"files": files})
    write_manifest(tmp_path / "a", manifest.model_copy(update={"parts": (first, *manifest.parts[1:])}))
    now = fingerprint(PackedData(path=str(tmp_path / "a")))
    assert difference(before, now) == "day_0_dense.npy has other content in as many bytes (and 2 more files differ)"


def test_other_rows_of_the_same_files_are_other_data(tmp_path):
    before = fingerprint(packed(tmp_path, split={"train": ["day_0", "day_1[:20]"]}))
    now = fingerprint(packed(tmp_path, split={"train": ["day_0", "day_1[20:]"]}))
    assert difference(before, now).startswith("rows 20 .. 39 of day_1_dense.npy are read and were 0 .. 19")


def test_a_file_that_is_gone_new_renamed_or_at_another_place_is_named(tmp_path):
    files = []
    for number in range(3):
        path = tmp_path / f"{number}"
        path.write_bytes(bytes([number]) * 1000)
        files.append(fingerprint_of(str(path), path.name))
    one, two, three = files
    assert difference(files, [one, three]) == "1 is missing (there are 2 files and were 3)"
    assert difference([one, three], files) == "1 is new (there are 3 files and were 2)"
    assert difference(files, [two, one, three]).startswith("its files are in another order: 1 is where 0 was")
    assert difference(files, [one, two, replace(three, name="c")]) == ""  # the same samples at the same places
    assert difference([one], [replace(one, bytes=7)]) == "0 has 7 bytes and had 1,000"
    assert difference([], []) == ""


@pytest.mark.parametrize("place", [0, 0.25, 0.5, 1])
def test_of_a_large_file_start_middle_and_end_are_looked_at(tmp_path, place):
    path = tmp_path / "large"
    path.write_bytes(bytes(1 << 20))
    before = fingerprint_of(str(path), "large")
    with path.open("r+b") as file:
        file.seek(int(place * ((1 << 20) - 1)))
        file.write(b"x")
    assert (difference([before], [fingerprint_of(str(path), "large")]) == "") == (place == 0.25)


def test_what_is_generated_has_no_files_and_bags_have_those_of_the_ids_they_are_made_of(tmp_path):
    assert fingerprint(RandomData(train_samples=10)) == ()
    one_hot = packed(tmp_path)
    bags = one_hot.model_copy(update={"multi_hot": HashedMultiHot(hotness=HOTNESS)})
    assert fingerprint(bags) == fingerprint(one_hot)


def test_a_file_that_cannot_be_read_is_named(tmp_path):
    with pytest.raises(DataError, match=r"gone: cannot be read \(No such file"):
        fingerprint_of(str(tmp_path / "gone"), "gone")
