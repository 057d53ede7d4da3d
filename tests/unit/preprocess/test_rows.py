"""Every row of every part is put together from where it is, once."""

import itertools
import random

import pytest

from dlrm.config.data.packed import PartSplit
from dlrm.data.packed.split import Part, resolve_split
from dlrm.preprocess.rows import Chunk, Copy, Draw, RowMap, Rows


def row_map(chunk_rows, part_rows, *, shuffled=False, **split):
    chunks, start = [], 0
    for index, count in enumerate(chunk_rows):
        chunks.append(Chunk(0, index, Rows(start, start + count)))
        start += count
    parts = [Part(f"p{i}", count) for i, count in enumerate(part_rows)]
    return RowMap(chunks, parts, resolve_split(PartSplit(**split), parts, "split"), int(shuffled))


def coverage(rows: RowMap, part: Part, bucket_rows=()):
    """For each row of a part where it comes from: ("row", r) of all rows, or ("place", p) after the shuffle."""
    found: list[tuple[str, int] | None] = [None] * part.rows
    ends = list(itertools.accumulate(bucket_rows))
    for piece in [*rows.copies(part.name), *(draw for draw in rows.draws(bucket_rows) if draw.part == part.name)]:
        for i in range(len(piece)):
            assert found[piece.start + i] is None, "written twice"
            if isinstance(piece, Copy):
                assert piece.rows & piece.chunk.rows == piece.rows
                found[piece.start + i] = ("row", piece.rows.start + i)
            else:
                place = ends[piece.bucket] - bucket_rows[piece.bucket] + piece.skip + i
                assert place < ends[piece.bucket]
                found[piece.start + i] = ("place", place)
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
    rows = row_map([sum(part_rows)], part_rows, shuffled=True, **split)
    before_p1 = part_rows[0]
    training = [*range(before_p1 + start, before_p1 + stop), *range(before_p1)]  # rows, by place
    expected = [("place", training.index(r)) if r in training else ("row", r) for r in range(sum(part_rows))]
    edges = sorted(draw.randrange(len(training) + 1) for _ in range(draw.randrange(9)))
    bucket_rows = [stop - start for start, stop in zip([0, *edges], [*edges, len(training)], strict=True)]
    assert [source for part in rows.parts for source in coverage(rows, part, bucket_rows)] == expected
    assert rows.training_rows == len(training)


def test_training_rows_of_a_stretch_are_found_with_their_places():
    rows = row_map([40], [10, 20, 10], train=["p2", "p0[5:]"], test=["p1"])
    assert list(rows.training(Rows(0, 40))) == [(Rows(30, 40), 0), (Rows(5, 10), 10)]
    assert list(rows.training(Rows(7, 33))) == [(Rows(30, 33), 0), (Rows(7, 10), 12)]
    assert list(rows.training(Rows(10, 30))) == []


def test_a_bucket_goes_to_as_many_parts_as_its_places_are_in():
    rows = row_map([30], [10, 12, 8], shuffled=True, train=["p0..p1"])
    assert rows.draws([4, 0, 18]) == [
        Draw(0, "p0", 0, 4, 0),
        Draw(2, "p0", 0, 6, 4),
        Draw(2, "p1", 6, 12, 0),
    ]


def test_a_chunk_is_mixed_where_some_of_its_rows_are_trained_on():
    rows = row_map([6, 6, 0, 6, 12], [12, 9, 9], train=["p0", "p1[6:]"], test=["p2"])
    assert [rows.is_mixed(chunk) for chunk in rows.chunks] == [False, False, False, False, True]
    rows = row_map([8, 8], [16], train=["p0[:4]", "p0[6:]"], test=["p0[4:6]"])
    assert [rows.is_mixed(chunk) for chunk in rows.chunks] == [True, False]


def test_the_chunks_within_a_part_are_those_no_other_part_needs():
    rows = row_map([6, 6, 6, 6], [12, 9, 3], train=["p0"])
    assert [[chunk.index for chunk in rows.within(part.name)] for part in rows.parts] == [[0, 1], [2], []]


def test_chunks_with_rows_that_are_shuffled_are_needed_by_other_parts():
    rows = row_map([6, 6, 6, 6], [12, 9, 3], shuffled=True, train=["p0"])
    assert [[chunk.index for chunk in rows.within(part.name)] for part in rows.parts] == [[], [2], []]
