"""The vocabulary of a column is what occurs often enough in all chunks, however they are cut and merged."""

from collections import Counter

import numpy as np
import pytest

from dlrm.config.prepare import ContiguousVocabulary, PreprocessConfig
from dlrm.preprocess import vocabularies
from dlrm.preprocess.records import record_type
from dlrm.preprocess.sections import SectionFile
from dlrm.preprocess.vocabularies import vocabulary, write_values
from tests.unit.preprocess.columns import HIGHEST, clustered_columns, distinct, present, skewed_column

MLPERF = ContiguousVocabulary(of="all", reserved="mlperf")


@pytest.fixture(params=["at once", "in ranges"])
def how(request, monkeypatch):
    """Both ways of merging what occurs in chunks."""
    if request.param == "in ranges":
        monkeypatch.setattr(vocabularies, "_VALUES_AT_A_TIME", 100)
        monkeypatch.setattr(vocabularies, "_SAMPLE_STEP", 3)
    return request.param


def records_of(columns):
    """Records of rows of which only the sparse columns matter: (categories, is_missing) of each."""
    config = PreprocessConfig(input=("raw",), output="packed", num_dense=1, num_sparse=len(columns))
    records = np.zeros(len(columns[0][0]), record_type(config))
    for f, (categories, is_missing) in enumerate(columns):
        records["flags"][:, (1 + f) // 32] |= is_missing.astype(np.uint32) << np.uint32((1 + f) % 32)
        records["categories"][:, f] = categories
    return records


def files_of(folder, columns, config, *, pieces=1):
    """What occurs in columns whose rows are in several chunks."""
    for number, piece in enumerate(np.array_split(records_of(columns), pieces)):
        write_values(folder / str(number), piece, config)
    return [SectionFile(folder / str(number), np.uint32, len(columns)) for number in range(pieces)]


def built(folder, columns, config, *, pieces=1):
    """The vocabularies of columns whose rows are in several chunks."""
    files = files_of(folder, columns, config, pieces=pieces)
    return [np.concatenate(list(vocabulary(files, f, config.min_count))) for f in range(len(columns))]


@pytest.mark.parametrize("pieces", [1, 7])
@pytest.mark.parametrize("min_count", [1, 2, 3, 5, 40, 300])
def test_the_vocabulary_is_what_a_counter_finds_often_enough(how, tmp_path, min_count, pieces):
    columns = [skewed_column(seed=f) for f in range(3)]
    found = built(tmp_path, columns, ContiguousVocabulary(min_count=min_count), pieces=pieces)
    for values, (categories, is_missing) in zip(found, columns, strict=True):
        counts = Counter(categories[~is_missing].tolist())
        assert values.dtype == np.uint32
        assert values.tolist() == sorted(value for value, count in counts.items() if count >= min_count)


@pytest.mark.parametrize("name", clustered_columns())
def test_the_vocabulary_of_clustered_values_is_theirs(how, tmp_path, name):
    values = clustered_columns()[name]
    (found,) = built(tmp_path, [present(*values.ravel())], ContiguousVocabulary(), pieces=3)
    assert (found == distinct(values)).all()


def test_mlperf_counts_a_missing_category_as_the_value_0(how, tmp_path):
    column = np.array([9, 0, 4], np.uint32), np.array([False, True, False])
    assert built(tmp_path, [column], MLPERF)[0].tolist() == [0, 4, 9]
    assert built(tmp_path, [column], ContiguousVocabulary())[0].tolist() == [4, 9]


@pytest.mark.parametrize("min_count", [1, 2])
def test_a_0_that_is_there_counts_whatever_is_missing_around_it(tmp_path, min_count):
    is_missing = np.array([True, False, True, False, True])
    (found,) = built(tmp_path, [(np.zeros(5, np.uint32), is_missing)], ContiguousVocabulary(min_count=min_count))
    assert found.tolist() == [0]
    is_missing[3] = True
    (found,) = built(tmp_path, [(np.zeros(5, np.uint32), is_missing)], ContiguousVocabulary(min_count=min_count))
    assert found.tolist() == [0] * (min_count == 1)


def test_columns_with_missing_values_only_have_an_empty_vocabulary(how, tmp_path):
    column = np.zeros(1000, np.uint32), np.ones(1000, bool)
    assert built(tmp_path, [column], ContiguousVocabulary())[0].tolist() == []
    assert built(tmp_path, [column], MLPERF)[0].tolist() == [0]


def test_what_occurs_is_ascending_and_no_more_than_the_threshold_needs(tmp_path):
    column = np.repeat(np.array([7, HIGHEST, 7, 3], np.uint32), [5, 1, 2, 3]), np.zeros(11, bool)
    for min_count, expected in ((1, [3, 7, HIGHEST]), (2, [3, 3, 7, 7, HIGHEST]), (9, [3] * 3 + [7] * 7 + [HIGHEST])):
        (file,) = files_of(tmp_path, [column], ContiguousVocabulary(min_count=min_count))
        assert file.read(0).tolist() == expected
