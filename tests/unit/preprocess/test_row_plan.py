"""Every row of every part is put together from where it is, once; and a split that cannot be is found before."""

import itertools
import random

import pytest

from dlrm.config.data.packed import PartSplit
from dlrm.data.packed.split import Part, resolve_split
from dlrm.errors import ConfigError
from dlrm.preprocess.row_plan import Chunk, Copy, Draw, RowPlan, Rows, check_split


def row_plan(chunk_rows, part_rows, *, shuffled=False, **split):
    chunks, start = [], 0
    for index, count in enumerate(chunk_rows):
        chunks.append(Chunk(0, index, Rows(start, start + count)))
        start += count
    parts = [Part(f"p{i}", count) for i, count in enumerate(part_rows)]
    return RowPlan(chunks, parts, resolve_split(PartSplit(**split), parts, "split"), shuffle=shuffled)


def coverage(plan: RowPlan, part: Part, bucket_rows=()):
    """For each row of a part where it comes from: ("row", r) of all rows, or ("place", p) after the shuffle."""
    found: list[tuple[str, int] | None] = [None] * part.rows
    ends = list(itertools.accumulate(bucket_rows))
    for piece in [*plan.copies(part.name), *(draw for draw in plan.draws(bucket_rows) if draw.part == part.name)]:
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
    plan = row_plan(chunk_rows, part_rows, train=["p0..p3"])
    found = [source for part in plan.parts for source in coverage(plan, part)]
    assert found == [("row", r) for r in range(sum(part_rows))]


@pytest.mark.parametrize("seed", range(20))
def test_with_a_shuffle_training_rows_come_by_place_and_the_others_stay(seed):
    draw = random.Random(seed)
    part_rows = [draw.randrange(4, 30) for _ in range(3)]
    start, stop = sorted(draw.randrange(part_rows[1] + 1) for _ in range(2))
    split = {"train": [f"p1[{start}:{stop}]", "p0"], "test": ["p2"]}
    plan = row_plan([sum(part_rows)], part_rows, shuffled=True, **split)
    before_p1 = part_rows[0]
    training = [*range(before_p1 + start, before_p1 + stop), *range(before_p1)]  # rows, by place
    expected = [("place", training.index(r)) if r in training else ("row", r) for r in range(sum(part_rows))]
    edges = sorted(draw.randrange(len(training) + 1) for _ in range(draw.randrange(9)))
    bucket_rows = [stop - start for start, stop in zip([0, *edges], [*edges, len(training)], strict=True)]
    assert [source for part in plan.parts for source in coverage(plan, part, bucket_rows)] == expected


def test_training_rows_of_a_stretch_are_found():
    plan = row_plan([40], [10, 20, 10], train=["p2", "p0[5:]"], test=["p1"])
    assert list(plan.training(Rows(0, 40))) == [Rows(30, 40), Rows(5, 10)]
    assert list(plan.training(Rows(7, 33))) == [Rows(30, 33), Rows(7, 10)]
    assert list(plan.training(Rows(10, 30))) == []


def test_a_bucket_goes_to_as_many_parts_as_its_places_are_in():
    plan = row_plan([30], [10, 12, 8], shuffled=True, train=["p0..p1"])
    assert plan.draws([4, 0, 18]) == [
        Draw(0, "p0", 0, 4, 0),
        Draw(2, "p0", 0, 6, 4),
        Draw(2, "p1", 6, 12, 0),
    ]


def test_a_chunk_is_mixed_where_some_of_its_rows_are_trained_on():
    plan = row_plan([6, 6, 0, 6, 12], [12, 9, 9], train=["p0", "p1[6:]"], test=["p2"])
    assert [plan.is_mixed(chunk) for chunk in plan.chunks] == [False, False, False, False, True]
    plan = row_plan([8, 8], [16], train=["p0[:4]", "p0[6:]"], test=["p0[4:6]"])
    assert [plan.is_mixed(chunk) for chunk in plan.chunks] == [True, False]
    assert plan.is_training(plan.chunks[0]).tolist() == [True] * 4 + [False] * 2 + [True] * 2


def test_the_chunks_within_a_part_are_those_no_other_part_needs():
    plan = row_plan([6, 6, 6, 6], [12, 9, 3], train=["p0"])
    assert [[chunk.index for chunk in plan.within(part.name)] for part in plan.parts] == [[0, 1], [2], []]


def test_chunks_with_rows_that_are_shuffled_are_needed_by_other_parts():
    plan = row_plan([6, 6, 6, 6], [12, 9, 3], shuffled=True, train=["p0"])
    assert [[chunk.index for chunk in plan.within(part.name)] for part in plan.parts] == [[], [2], []]


ABOUT = [Part("day_0", 900), Part("day_1", 1100)]


@pytest.mark.parametrize(
    ("split", "said"),
    [
        ({"train": ["day_0"], "test": ["day_0[0.5:]"]}, "split: train and test share rows of day_0"),
        ({"train": ["day_0", "day_1"], "test": ["day_1"]}, "split: test and train share rows of day_1"),
        ({"train": ["day_0", "day_0"]}, "split: train uses twice the rows of day_0"),
        ({"train": ["day_0[:500]"], "test": ["day_0[400:600]"]}, "split: train and test share rows 400 .. 499 of day_0"),
        (
            {"train": ["day_0[0.9:0.1]"]},
            "split.train: 'day_0[0.9:0.1]' asks for rows of day_0, which it cannot have",
        ),
        (
            {"train": ["day_0[500:100]"]},
            "split.train: 'day_0[500:100]' asks for rows 500 .. 100 of day_0, which it cannot have",
        ),
    ],
)  # fmt: skip
def test_a_split_that_cannot_fit_is_said_without_numbers_that_nobody_has_counted(split, said):
    with pytest.raises(ConfigError) as caught:
        check_split(PartSplit(**split), ABOUT)
    assert str(caught.value) == said


@pytest.mark.parametrize("entry", ["day_0[:0.9]", "day_0[:1500]", "day_0[10:]"])
def test_a_split_that_some_number_of_rows_would_fit_is_let_pass(entry):
    check_split(PartSplit(train=[entry]), ABOUT)
