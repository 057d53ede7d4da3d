import numpy as np
import pytest

from dlrm.data.raw.row_map import NO_ROW, fault_in_match, matched_rows
from dlrm.data.raw.vocabulary import NO_ID, DecimalIds, HashedIds, Vocabulary

ASCENDING = Vocabulary(np.array([3, 7, 9, 4_000_000_000], np.uint32), None)
BY_COUNT = Vocabulary(np.array([1, 7, 4_000_000_000], np.int64), np.array([4, 2, 3]))
MLPERF = Vocabulary(np.array([0, 7], np.uint32), None, missing=0, unseen=NO_ID, first=0)


def test_rows_of_one_value_match_whatever_their_numbers():
    # missing, unseen, 3, 7, 9, 4e9 against missing, unseen, 7, 4e9, 1
    assert matched_rows(ASCENDING, BY_COUNT).tolist() == [0, 1, NO_ROW, 2, NO_ROW, 3]
    assert matched_rows(BY_COUNT, ASCENDING).tolist() == [0, 1, 3, 5, NO_ROW]


def test_a_missing_value_is_matched_with_a_missing_value():
    assert matched_rows(MLPERF, ASCENDING).tolist() == [0, 3]
    assert matched_rows(ASCENDING, MLPERF).tolist() == [0, NO_ROW, NO_ROW, 1, NO_ROW, NO_ROW]


def test_an_empty_vocabulary_matches_nothing_else():
    empty = Vocabulary(np.array([], np.uint32), None)
    assert matched_rows(ASCENDING, empty).tolist() == [0, 1] + 4 * [NO_ROW]
    assert matched_rows(empty, ASCENDING).tolist() == [0, 1]


def test_ids_match_by_number_and_hashes_if_they_are_alike():
    assert matched_rows(DecimalIds(3), DecimalIds(2)).tolist() == [0, 1, NO_ROW]
    assert fault_in_match(HashedIds("a", 5), HashedIds("a", 5)) == ""
    assert matched_rows(HashedIds("a", 3), HashedIds("a", 3)).tolist() == [0, 1, 2]


@pytest.mark.parametrize(
    ("here", "there", "said"),
    [
        (HashedIds("a", 5), HashedIds("a", 6), "is hashed over 6 rows there and 5 here"),
        (ASCENDING, HashedIds("a", 6), "has hashed values there and a vocabulary here"),
        (DecimalIds(5), ASCENDING, "has a vocabulary there and ids here"),
    ],
)
def test_tables_whose_rows_cannot_be_matched_are_named(here, there, said):
    assert said in fault_in_match(here, there)
