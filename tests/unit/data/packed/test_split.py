import math
from fractions import Fraction

import pytest

from dlrm.config.data.packed import PartSplit
from dlrm.data.packed.split import Part, ResolvedSplit, Span, find_overlap, natural_key, resolve_split
from dlrm.errors import ConfigError

DAYS = tuple(Part(f"day_{day}", 101 + day) for day in range(12))


def resolved(**entries) -> ResolvedSplit:
    return resolve_split(PartSplit(**entries), DAYS, "data.split")


def test_without_entries_the_last_part_is_halved():
    split = resolve_split(PartSplit(), DAYS, "data.split")
    assert split.train == tuple(Span(part.name, 0, part.rows) for part in DAYS[:-1])
    assert (split.validation, split.test) == ((Span("day_11", 0, 56),), (Span("day_11", 56, 112),))


def test_the_first_half_of_an_odd_part_has_the_row_more():
    """Criteo Terabyte's day 23 has 178,274,637 rows, of which the field validates on the first 89,137,319."""
    split = resolve_split(PartSplit(), [Part("a", 1), Part("day_23", 178_274_637)], "data.split")
    assert len(split.validation[0]) == 89_137_319
    assert len(split.test[0]) == 89_137_318


def test_entries_are_parts_ranges_and_rows():
    split = resolved(train=["day_9..day_11", "day_0", "day_1[50:]"], validation=["day_1[:20]"], test=["day_1[20:30]"])
    last_days = (Span("day_9", 0, 110), Span("day_10", 0, 111), Span("day_11", 0, 112))
    assert split.train == (*last_days, Span("day_0", 0, 101), Span("day_1", 50, 102))
    assert split.validation == (Span("day_1", 0, 20),)
    assert split.test == (Span("day_1", 20, 30),)


@pytest.mark.parametrize("text", ["0.5", "0.1", "0.333", "0.999", "1.0", "0.0"])
def test_a_fraction_cuts_a_part_without_gap_or_overlap(text):
    split = resolved(train=["day_0"], validation=[f"day_3[:{text}]"], test=[f"day_3[{text}:]"])
    middle = math.ceil(Fraction(text) * 104)
    assert (split.validation, split.test) == ((Span("day_3", 0, middle),), (Span("day_3", middle, 104),))


def test_a_fraction_of_many_rows_is_exact():
    split = resolve_split(PartSplit(train=["a[:0.1]"]), [Part("a", 10**15 + 10)], "data.split")
    assert split.train == (Span("a", 0, 10**14 + 1),)  # 0.1 as a float would give one row more


@pytest.mark.parametrize(
    ("entries", "expected"),
    [
        (
            {"train": ["day_99"]},
            "data.split.train: there is no part 'day_99'; there are day_0, day_1, day_2, .., day_11",
        ),
        ({"train": ["day_0..x"]}, "data.split.train: there is no part 'x'"),
        ({"train": ["day_3..day_1"]}, "data.split.train: 'day_3..day_1' holds no part: day_1 comes before day_3"),
        ({"train": ["day_0[1]"]}, "data.split.train: 'day_0[1]' is neither part, part..part nor part[start:stop]"),
        ({"train": ["day_0[:200]"]}, "data.split.train: 'day_0[:200]' asks for rows 0 .. 200 of day_0, which has 101"),
        ({"train": ["day_0[60:50]"]}, "data.split.train: 'day_0[60:50]' asks for rows 60 .. 50 of day_0"),
        ({"train": ["day_0[:.]"]}, "data.split.train: '.' in 'day_0[:.]' is neither a number of rows nor a fraction"),
        ({"train": ["day_0[:0.5.]"]}, "data.split.train: '0.5.' in 'day_0[:0.5.]' is neither"),
        ({"train": [f"day_0[:{'9' * 5000}]"]}, "data.split.train: '999"),
        ({"train": ["day_0[:0]"]}, "data.split.train: holds no row: name parts to train on"),
        ({"train": ["day_0", "day_0"]}, "data.split: train uses twice the rows 0 .. 100 of day_0"),
        (
            {"train": ["day_0..day_3"], "test": ["day_2[50:60]"]},
            "data.split: train and test share rows 50 .. 59 of day_2",
        ),
        (
            {"train": ["day_0"], "validation": ["day_1[:0.6]"], "test": ["day_1[0.5:]"]},
            "data.split: validation and test share rows 51 .. 61 of day_1",
        ),
    ],
)
def test_entries_that_make_no_split_are_refused(entries, expected):
    with pytest.raises(ConfigError) as caught:
        resolved(**entries)
    assert str(caught.value).startswith(expected)


def test_all_wrong_entries_are_named_at_once():
    with pytest.raises(ConfigError) as caught:
        resolved(train=["x"], validation=["y"], test=["day_0"])
    assert [problem.key for problem in caught.value.problems] == ["data.split.train", "data.split.validation"]


@pytest.mark.parametrize("parts", [[Part("train", 10)], [Part("a", 0), Part("b", 10)]])
def test_a_data_set_that_has_no_default_split_says_so(parts):
    with pytest.raises(ConfigError, match=r"data\.split"):
        resolve_split(PartSplit(), parts, "data.split")


@pytest.mark.parametrize(("first", "second"), [((0, 10), (10, 20)), ((5, 5), (0, 20)), ((0, 0), (0, 0))])
def test_neighbours_and_empty_spans_share_no_row(first, second):
    assert find_overlap(ResolvedSplit((Span("a", *first),), (Span("a", *second),), (Span("b", 0, 20),))) == ""


def test_an_overlap_is_found_behind_a_span_within_another():
    split = ResolvedSplit((Span("a", 0, 100),), (Span("b", 0, 1),), (Span("a", 10, 20), Span("a", 60, 70)))
    assert find_overlap(split) == "train and test share rows 10 .. 19 of a"


def test_names_sort_by_their_numbers():
    names = ["day_10", "day_9", "day_1", "a", "day_1b", "day_²", "10", "9"]
    assert sorted(names, key=natural_key) == ["9", "10", "a", "day_1", "day_1b", "day_9", "day_10", "day_²"]
