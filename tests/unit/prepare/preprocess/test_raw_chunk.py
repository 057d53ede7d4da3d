import os
from pathlib import Path

import numpy as np
import pytest

from dlrm.errors import DataError
from dlrm.prepare.preprocess.raw_chunk import (
    ChunkCounts,
    RawChunk,
    read_category,
    read_counts,
    read_raw_chunk,
    write_raw_chunk,
)


def a_chunk(rows=1003, num_dense=2, num_sparse=3, seed=0) -> RawChunk:
    rng = np.random.default_rng(seed)
    missing_FM = rng.random((num_sparse, rows)) < 0.3
    categories_FM = rng.integers(0, 2**32, (num_sparse, rows), np.uint32)
    categories_FM[missing_FM] = 0
    labels_M = rng.integers(0, 2, rows, np.uint8)
    missing = {f"int_{i}": i for i in range(num_dense)}
    missing |= {f"cat_{i}": int(missing_FM[i].sum()) for i in range(num_sparse)}
    counts = ChunkCounts(rows=rows, clicks=int(labels_M.sum()), missing=missing, skipped_rows=5)
    dense_MN = rng.standard_normal((rows, num_dense), np.float32)
    return RawChunk(labels_M, dense_MN, categories_FM, missing_FM, counts)


def assert_equal(one: RawChunk, other: RawChunk) -> None:
    for name in ("labels_M", "dense_MN", "categories_FM", "missing_FM"):
        first, second = getattr(one, name), getattr(other, name)
        assert first.dtype == second.dtype
        np.testing.assert_array_equal(first, second)
    assert one.counts == other.counts


def error_of(read, path: Path) -> str:
    with pytest.raises(DataError) as caught:
        read(path)
    assert caught.value.path == str(path)
    assert caught.value.mend
    return str(caught.value)


READERS = {
    "whole": read_raw_chunk,
    "column 0": lambda path: read_category(path, 0),
    "column 2": lambda path: read_category(path, 2),
    "counts": read_counts,
}


@pytest.mark.parametrize("rows", [0, 1, 7, 8, 64, 1003])
def test_what_was_written_is_read(tmp_path, rows):
    chunk = a_chunk(rows)
    write_raw_chunk(tmp_path / "c", chunk)
    assert_equal(read_raw_chunk(tmp_path / "c"), chunk)
    assert read_counts(tmp_path / "c") == chunk.counts
    for i in range(3):
        category_M, missing_M = read_category(tmp_path / "c", i)
        np.testing.assert_array_equal(category_M, chunk.categories_FM[i])
        np.testing.assert_array_equal(missing_M, chunk.missing_FM[i])
        assert (category_M.dtype, missing_M.dtype) == (np.uint32, np.bool_)


def test_arrays_that_are_not_contiguous_are_written_all_the_same(tmp_path):
    chunk = a_chunk()
    turned = RawChunk(
        chunk.labels_M,
        np.asfortranarray(chunk.dense_MN),
        np.asfortranarray(chunk.categories_FM),
        np.asfortranarray(chunk.missing_FM),
        chunk.counts,
    )
    write_raw_chunk(tmp_path / "a", chunk)
    write_raw_chunk(tmp_path / "b", turned)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_every_flipped_byte_is_told_from_what_was_written(tmp_path):
    chunk = a_chunk(rows=20)
    path = tmp_path / "c"
    write_raw_chunk(path, chunk)
    whole = path.read_bytes()
    told = 0
    for position in range(len(whole)):
        flipped = bytearray(whole)
        flipped[position] ^= 0x10
        path.write_bytes(flipped)
        try:
            # Bytes between the arrays mean nothing.
            assert_equal(read_raw_chunk(path), chunk)
        except DataError:
            told += 1
    arrays = 20 + 20 * 2 * 4 + 20 * 3 * 4 + 3 * 3
    assert told > arrays + 200  # and the header


def test_damage_is_named_by_its_column_and_leaves_the_others_readable(tmp_path):
    chunk = a_chunk(rows=1000)
    path = tmp_path / "c"
    write_raw_chunk(path, chunk)
    data = bytearray(path.read_bytes())
    at = data.find(chunk.categories_FM[1].tobytes())
    data[at + 17] ^= 1
    path.write_bytes(data)
    assert "is damaged (checksum of cat_1)" in error_of(read_raw_chunk, path)
    assert "is damaged (checksum of cat_1)" in error_of(lambda p: read_category(p, 1), path)
    np.testing.assert_array_equal(read_category(path, 0)[0], chunk.categories_FM[0])
    assert read_counts(path) == chunk.counts


@pytest.mark.parametrize("reader", READERS)
def test_a_file_of_any_other_length_is_an_error(tmp_path, reader):
    path = tmp_path / "c"
    write_raw_chunk(path, a_chunk(rows=20))
    whole = path.read_bytes()
    for length in [*range(0, len(whole), 13), len(whole) - 1]:
        path.write_bytes(whole[:length])
        error_of(READERS[reader], path)
    path.write_bytes(whole + b"\0")
    assert f"has {len(whole) + 1} bytes instead of {len(whole)}" in error_of(READERS[reader], path)


@pytest.mark.parametrize("reader", READERS)
def test_zeros_where_the_disk_never_wrote_are_an_error(tmp_path, reader):
    path = tmp_path / "c"
    write_raw_chunk(path, a_chunk(rows=20))
    path.write_bytes(bytes(path.stat().st_size))
    assert "is not a chunk of parsed rows" in error_of(READERS[reader], path)


@pytest.mark.parametrize("reader", READERS)
def test_a_file_that_is_not_there_is_an_error(tmp_path, reader):
    assert "no such file" in error_of(READERS[reader], tmp_path / "absent")


def test_a_file_is_replaced_as_a_whole_and_nothing_stays_beside_it(tmp_path):
    write_raw_chunk(tmp_path / "c", a_chunk(seed=1))
    write_raw_chunk(tmp_path / "c", a_chunk(seed=2))
    assert_equal(read_raw_chunk(tmp_path / "c"), a_chunk(seed=2))
    assert os.listdir(tmp_path) == ["c"]


def test_a_full_disk_is_an_error_that_leaves_what_was_there(tmp_path, monkeypatch):
    path = tmp_path / "c"
    write_raw_chunk(path, a_chunk(seed=1))

    def full(*arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    assert "cannot be written (No space left on device)" in error_of(
        lambda p: write_raw_chunk(p, a_chunk(seed=2)), path
    )
    assert_equal(read_raw_chunk(path), a_chunk(seed=1))
    assert os.listdir(tmp_path) == ["c"]


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no device that is always full")
def test_a_disk_that_is_full_while_writing_is_an_error(tmp_path):
    (tmp_path / "c.part").symlink_to("/dev/full")
    assert "No space left on device" in error_of(lambda p: write_raw_chunk(p, a_chunk()), tmp_path / "c")
    assert os.listdir(tmp_path) == []
