"""Every row of every part is put together from where it is, once."""

import random

import pytest

from dlrm.config.data.packed import PartSplit
from dlrm.data.packed.split import Part, resolve_split
from dlrm.prepare.preprocess.rows import Bucket, Chunk, Copy, RowMap, Rows


def row_map(chunk_rows, part_rows, *, bucket_rows=0, **split):
    chunks, start = [], 0
    for index, count in enumerate(chunk_rows):
        chunks.append(Chunk(0, index, Rows(start, start + count)))
        start += count
    parts = [Part(f"p{i}", count) for i, count in enumerate(part_rows)]
    return RowMap(chunks, parts, resolve_split(PartSplit(**split), parts, "split"), bucket_rows)


def coverage(rows: RowMap, part: Part):
    """For each row of a part where it comes from: ("row", r) of all rows, or ("place", p) after the shuffle."""
    found: list[tuple[str, int] | None] = [None] * part.rows
    for piece in rows.pieces(part.name):
        for i in range(len(piece)):
            assert found[piece.start + i] is None, "written twice"
            if isinstance(piece, Copy):
                assert piece.rows & piece.chunk.rows == piece.rows
                found[piece.start + i] = ("row", piece.rows.start + i)
            else:
                found[piece.start + i] = ("place", piece.first + i)
    return found


@pytest.mark.parametrize("seed", range(20))
def test_without_a_shuffle_every_row_stays_where_it_is(seed):
    draw = random.Random(seed)
    part_rows = [draw.randrange(0, 30) for _ in range(4)]
    edges = sorted(draw.randrange(sum(part_rows) + 1) for _ in range(6))
    chunk_rows = [stop - start for start, stop in zip([0, *edges], [*edges, sum(part_rows)], strict=True)]
    rows = row_map(chunk_rows, part_rows, train=["p0..p3"])
    found = [source for part in rows.parts for source in coverage(rows, part)]
    assert found == [("row", r) for r in range(sum(part_rows))]


@pytest.mark.parametrize("seed", range(20))
def test_with_a_shuffle_training_rows_come_by_place_and_the_others_stay(seed):
    draw = random.Random(seed)
    part_rows = [draw.randrange(4, 30) for _ in range(3)]
    start, stop = sorted(draw.randrange(part_rows[1] + 1) for _ in range(2))
    split = {"train": [f"p1[{start}:{stop}]", "p0"], "test": ["p2"]}
    rows = row_map([sum(part_rows)], part_rows, bucket_rows=draw.randrange(1, 9), **split)
    before_p1 = part_rows[0]
    training = [*range(before_p1 + start, before_p1 + stop), *range(before_p1)]  # rows, by place
    expected = [("place", training.index(r)) if r in training else ("row", r) for r in range(sum(part_rows))]
    assert [source for part in rows.parts for source in coverage(rows, part)] == expected
    assert rows.training_rows == len(training)
    assert [bucket.number for bucket in rows.buckets] == list(range(len(rows.buckets)))
    assert [bucket.first for bucket in rows.buckets] == sorted(bucket.first for bucket in rows.buckets)


def test_training_rows_of_a_stretch_are_found_with_their_places():
    rows = row_map([40], [10, 20, 10], train=["p2", "p0[5:]"], test=["p1"])
    assert list(rows.training(Rows(0, 40))) == [(Rows(30, 40), 0), (Rows(5, 10), 10)]
    assert list(rows.training(Rows(7, 33))) == [(Rows(30, 33), 0), (Rows(7, 10), 12)]
    assert list(rows.training(Rows(10, 30))) == []


def test_a_bucket_is_never_in_two_parts():
    rows = row_map([30], [10, 12, 8], bucket_rows=4, train=["p0..p1"])
    assert rows.buckets == (
        Bucket(0, "p0", 0, 4, 0), Bucket(1, "p0", 4, 4, 4), Bucket(2, "p0", 8, 2, 8),
        Bucket(3, "p1", 10, 4, 0), Bucket(4, "p1", 14, 4, 4), Bucket(5, "p1", 18, 4, 8),
    )  # fmt: skip


def test_the_chunks_within_a_part_are_those_no_other_part_needs():
    rows = row_map([6, 6, 6, 6], [12, 9, 3], train=["p0"])
    assert [[chunk.index for chunk in rows.within(part.name)] for part in rows.parts] == [[0, 1], [2], []]
