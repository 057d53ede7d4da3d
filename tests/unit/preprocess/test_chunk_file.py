"""What is written of a chunk is what is read, or an error says that it is not."""

import os

import numpy as np
import pytest

from dlrm.errors import DataError
from dlrm.preprocess.chunk_file import ChunkReader, write_chunk
from dlrm.preprocess.raw_chunk import ChunkCounts, RawChunk

WORDS = 7


def a_chunk(rows=103, seed=0) -> RawChunk:
    draw = np.random.default_rng(seed)
    records = draw.integers(0, 2**32, (rows, WORDS), np.uint32)
    records[:, 0] = np.arange(rows)
    counts = ChunkCounts(rows=rows, clicks=3, missing={"int_0": 1, "cat_0": 2}, skipped_rows=2)
    return RawChunk(records, 1000, np.array([0, 5]), counts)


def by_bucket(chunk, buckets=4, seed=0):
    """The chunk's records by random bucket, and where each bucket ends."""
    bucket_of = np.random.default_rng(seed).integers(0, buckets, len(chunk.records_MW))
    ends = np.cumsum(np.bincount(bucket_of, minlength=buckets))
    return chunk.records_MW[np.argsort(bucket_of, kind="stable")], ends


def write(path, chunk, buckets=4):
    write_chunk(path, chunk, *by_bucket(chunk, buckets))


def error_of(read) -> str:
    with pytest.raises(DataError) as caught:
        read()
    assert caught.value.mend
    return str(caught.value)


@pytest.mark.parametrize("buckets", [1, 2, 50])
@pytest.mark.parametrize("rows", [0, 1, 7, 103])
def test_what_was_written_is_read(tmp_path, rows, buckets):
    chunk = a_chunk(rows)
    write(tmp_path / "c", chunk, buckets)
    reader = ChunkReader(tmp_path / "c")
    assert reader.header.counts == chunk.counts
    assert reader.header.buckets == buckets
    lines = [line for line in range(1000, 1000 + rows + 2) if line not in (1000, 1005)][:rows]
    assert reader.header.lines_of(np.arange(rows)).tolist() == lines
    np.testing.assert_array_equal(reader.read_all(), chunk.records_MW)
    records, ends = by_bucket(chunk, buckets)
    starts = [0, *ends[:-1]]
    assert reader.bucket_rows().tolist() == (ends - starts).tolist()
    for bucket in range(buckets):
        found = np.zeros((rows + 1, WORDS), np.uint32)
        count, _ = reader.read(bucket, found)
        np.testing.assert_array_equal(found[:count], records[starts[bucket] : ends[bucket]])


def test_a_flipped_byte_anywhere_is_an_error(tmp_path):
    path = tmp_path / "c"
    write(path, a_chunk(rows=20))
    whole = path.read_bytes()
    for position in range(len(whole)):
        path.write_bytes(whole[:position] + bytes([whole[position] ^ 0x10]) + whole[position + 1 :])
        error_of(lambda: (ChunkReader(path).bucket_rows(), ChunkReader(path).read_all()))


def test_pages_that_the_disk_never_wrote_are_an_error(tmp_path):
    path = tmp_path / "c"
    write(path, a_chunk(rows=5000))
    whole = path.read_bytes()
    for page in range(0, len(whole), 4096):
        path.write_bytes(whole[:page] + bytes(len(whole[page : page + 4096])) + whole[page + 4096 :])
        error_of(lambda: ChunkReader(path).read_all())
    path.write_bytes(bytes(len(whole)))
    assert "is not a chunk of parsed rows" in error_of(lambda: ChunkReader(path))


def test_a_file_of_any_other_length_is_an_error(tmp_path):
    path = tmp_path / "c"
    write(path, a_chunk(rows=20))
    whole = path.read_bytes()
    for length in [*range(0, len(whole), 13), len(whole) - 1]:
        path.write_bytes(whole[:length])
        error_of(lambda: ChunkReader(path))
    path.write_bytes(whole + b"\0")
    assert f"has {len(whole) + 1} bytes instead of {len(whole)}" in error_of(lambda: ChunkReader(path))


def test_buckets_that_are_cut_off_give_their_room_back_and_those_before_them_stay(tmp_path):
    path, chunk = tmp_path / "c", a_chunk()
    records, ends = by_bucket(chunk)
    write(path, chunk)
    reader = ChunkReader(path)
    sizes = [path.stat().st_size]
    for kept in (4, 3, 3, 1):
        reader.cut(kept)
        again = ChunkReader(path, may_be_cut=True)
        again.check_kept(kept)
        assert again.bucket_rows().tolist() == np.diff(ends, prepend=0).tolist()
        sizes.append(path.stat().st_size)
        for bucket in range(kept):
            found = np.empty((103, WORDS), np.uint32)
            count, _ = again.read(bucket, found)
            np.testing.assert_array_equal(found[:count], records[ends[bucket] - count : ends[bucket]])
        if kept < 4:
            assert "instead of" in error_of(lambda kept=kept, again=again: again.check_kept(kept + 1))
            error_of(lambda kept=kept, again=again: again.read(kept, np.empty((103, WORDS), np.uint32)))
            assert "instead of" in error_of(lambda: ChunkReader(path))
    removed = [ends[3] - ends[2], 0, ends[2] - ends[0]]
    assert np.diff(sizes).tolist() == [0, *(-4 * WORDS * rows for rows in removed)]
    reader.cut(3)
    assert path.stat().st_size == sizes[-1], "a file never grows again"
    reader.cut(0)
    ChunkReader(path, may_be_cut=True).check_kept(0)


def test_a_file_that_is_cut_in_its_entries_is_an_error_even_where_it_may_be_cut(tmp_path):
    path = tmp_path / "c"
    write(path, a_chunk())
    offset = ChunkReader(path).header.record_offset
    path.write_bytes(path.read_bytes()[: offset - 1])
    assert "instead of" in error_of(lambda: ChunkReader(path, may_be_cut=True))


def test_a_file_that_is_not_there_is_an_error(tmp_path):
    assert "no such file" in error_of(lambda: ChunkReader(tmp_path / "absent"))
    write(tmp_path / "c", a_chunk())
    reader = ChunkReader(tmp_path / "c")
    (tmp_path / "c").unlink()
    assert "no such file" in error_of(reader.read_all)


def test_a_bucket_with_more_rows_than_are_expected_is_an_error(tmp_path):
    write(tmp_path / "c", a_chunk(), buckets=1)
    error_of(lambda: ChunkReader(tmp_path / "c").read(0, np.empty((102, WORDS), np.uint32)))


def test_a_file_is_replaced_as_a_whole_and_nothing_stays_beside_it(tmp_path):
    write(tmp_path / "c", a_chunk(seed=1))
    write(tmp_path / "c", a_chunk(seed=2))
    np.testing.assert_array_equal(ChunkReader(tmp_path / "c").read_all(), a_chunk(seed=2).records_MW)
    assert os.listdir(tmp_path) == ["c"]


def test_a_full_disk_is_an_error_that_leaves_what_was_there(tmp_path, monkeypatch):
    write(tmp_path / "c", a_chunk(seed=1))

    def full(*arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    problem = error_of(lambda: write(tmp_path / "c", a_chunk(seed=2)))
    assert "cannot be written (No space left on device)" in problem
    np.testing.assert_array_equal(ChunkReader(tmp_path / "c").read_all(), a_chunk(seed=1).records_MW)
    assert os.listdir(tmp_path) == ["c"]


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no device that is always full")
def test_a_disk_that_is_full_while_writing_is_an_error(tmp_path):
    (tmp_path / "c.unfinished").symlink_to("/dev/full")
    assert "No space left on device" in error_of(lambda: write(tmp_path / "c", a_chunk()))
    assert os.listdir(tmp_path) == []
