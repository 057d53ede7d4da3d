from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from torchrec.datasets.criteo import BinaryCriteoUtils

from dlrm.config.data.raw import HashedCategories
from dlrm.config.prepare import ContiguousVocabulary
from dlrm.data.raw.raw_rows import MISSING_CATEGORY
from dlrm.data.raw.vocabulary import hashed_ids
from dlrm.errors import ConfigError
from dlrm.preprocess.encode import Encoder, Reserved, SortedValues
from tests.unit.preprocess.columns import (
    HIGHEST,
    clustered_columns,
    distinct,
    plain_vocabulary,
    present,
    skewed_column,
)

SEPARATE = ContiguousVocabulary()
MLPERF = ContiguousVocabulary(of="all", reserved="mlperf")


def chunk(columns=3, rows=40_000):
    """Raw values uint32 (F, M) and where they are missing, bool (F, M); more rows than are encoded at a time."""
    made = [skewed_column(rows, seed=f) for f in range(columns)]
    return np.stack([categories for categories, _ in made]), np.stack([is_missing for _, is_missing in made])


def vocabularies_of(categories_FM, missing_FM, config):
    return [plain_vocabulary(*column, config) for column in zip(categories_FM, missing_FM, strict=True)]


def signed(categories, is_missing):
    """As reading raw files directly has them: int64, -1 where missing."""
    return np.where(is_missing, MISSING_CATEGORY, categories.astype(np.int64))


def test_ids_are_0_where_missing_1_where_unseen_then_by_ascending_value():
    categories_FM, missing_FM = chunk()
    vocabularies = [distinct(categories[5000:9000]) for categories in categories_FM]
    encoder = Encoder(SEPARATE, vocabularies)
    ids_MF = encoder.encode(categories_FM, missing_FM)
    assert encoder.rows == tuple(len(values) + 2 for values in vocabularies)
    assert ids_MF.dtype == np.int32
    assert ids_MF.shape == (40_000, 3)
    assert ids_MF.flags.c_contiguous
    for f, values in enumerate(vocabularies):
        ids = {value: i + 2 for i, value in enumerate(values.tolist())} | {MISSING_CATEGORY: 0}
        assert ids_MF[:, f].tolist() == [ids.get(c, 1) for c in signed(categories_FM[f], missing_FM[f]).tolist()]
        assert {0, 1, 2, encoder.rows[f] - 1} <= set(ids_MF[:, f].tolist())


def test_without_any_category_all_are_unseen_or_missing():
    categories_FM, missing_FM = chunk(columns=2)
    encoder = Encoder(SEPARATE, [np.empty(0, np.uint32)] * 2)
    assert encoder.rows == (2, 2)
    ids_MF = encoder.encode(categories_FM, missing_FM)
    assert (np.where(missing_FM, 0, 1) == ids_MF.T).all()


def test_no_rows_have_no_ids():
    encoder = Encoder(SEPARATE, [distinct([5])] * 2)
    ids_MF = encoder.encode(np.empty((2, 0), np.uint32), np.empty((2, 0), bool))
    assert (ids_MF.shape, ids_MF.dtype) == ((0, 2), np.int32)


def test_mlperf_ids_are_the_places_of_all_values_with_missing_as_0():
    categories_FM, missing_FM = chunk()
    encoder = Encoder(MLPERF, vocabularies_of(categories_FM, missing_FM, MLPERF))
    ids_MF = encoder.encode(categories_FM, missing_FM)
    for f, categories in enumerate(categories_FM):
        values, places = np.unique(categories, return_inverse=True)  # 0 where missing
        assert encoder.rows[f] == len(values)
        assert (ids_MF[:, f] == places).all()


@pytest.mark.parametrize(("category", "is_missing"), [(6, False), (0, True), (0, False), (HIGHEST, False)])
def test_mlperf_has_no_id_for_what_its_vocabulary_lacks(category, is_missing):
    encoder = Encoder(MLPERF, [distinct([5, 7])])
    with pytest.raises(ValueError, match="cat_0"):
        encoder.encode(np.array([[5, category]], np.uint32), np.array([[False, is_missing]]))


def torchrec_ids(tmp_path, categories_FM, threshold):
    """What torchrec makes of the same raw values in two files: int64 (M, F)."""
    halves = np.array_split(categories_FM.T.astype(np.int64), 2)
    paths = [str(tmp_path / f"day_{i}_sparse.npy") for i in range(2)]
    for path, half in zip(paths, halves, strict=True):
        np.save(path, half)
    BinaryCriteoUtils.sparse_to_contiguous(
        paths, str(tmp_path), frequency_threshold=threshold, columns=len(categories_FM)
    )
    return np.concatenate([np.load(tmp_path / f"day_{i}_sparse_contig_freq.npy") for i in range(2)])


def assert_renamed(ids, others):
    """That equal ids are equal in the others and different ones different."""
    pairs = np.unique(np.stack([ids, others]), axis=1)
    assert len(np.unique(ids)) == len(np.unique(others)) == pairs.shape[1]


def test_mlperf_ids_are_torchrecs_up_to_renaming(tmp_path):
    categories_FM, missing_FM = chunk(rows=5000)
    ids_MF = Encoder(MLPERF, vocabularies_of(categories_FM, missing_FM, MLPERF)).encode(categories_FM, missing_FM)
    theirs_MF = torchrec_ids(tmp_path, categories_FM, threshold=0)
    for ids, theirs in zip(ids_MF.T, theirs_MF.T, strict=True):
        assert_renamed(ids, theirs)
        assert theirs.min() == 2  # torchrec numbers from 2; MLPerf then takes ids modulo the table's rows


@pytest.mark.parametrize("threshold", [2, 3, 10])
def test_rare_categories_are_those_that_torchrec_maps_to_1(tmp_path, threshold):
    categories_FM, missing_FM = chunk(rows=5000)
    categories_FM[~missing_FM & (categories_FM == 0)] = 1  # torchrec cannot tell 0 from missing
    config = ContiguousVocabulary(min_count=threshold)
    ids_MF = Encoder(config, vocabularies_of(categories_FM, missing_FM, config)).encode(categories_FM, missing_FM)
    theirs_MF = torchrec_ids(tmp_path, categories_FM, threshold)
    for f in range(len(categories_FM)):
        ids, theirs = ids_MF[~missing_FM[f], f], theirs_MF[~missing_FM[f], f]
        assert ((ids == 1) == (theirs == 1)).all()
        assert (ids == 1).any()
        assert_renamed(ids, theirs)
        assert (ids_MF[missing_FM[f], f] == 0).all()


@pytest.mark.parametrize("rows", [2, 3, 1000, 2**31, 2**31 + 1, 2**40])
def test_hashed_ids_are_those_of_reading_the_raw_files(rows):
    categories_FM, missing_FM = chunk()
    encoder = Encoder(HashedCategories(rows=rows), None, num_sparse=3)
    ids_MF = encoder.encode(categories_FM, missing_FM)
    assert encoder.rows == (rows,) * 3
    assert encoder.wide == (rows > 2**31)
    assert ids_MF.dtype == (np.int64 if rows > 2**31 else np.int32)
    for f, column in enumerate(zip(categories_FM, missing_FM, strict=True)):
        assert (ids_MF[:, f] == hashed_ids(signed(*column), column=f"cat_{f}", rows=rows)).all()


def test_hashing_takes_a_table_size_a_column_or_one_for_all():
    assert Encoder(HashedCategories(rows=(5, 7)), None).rows == (5, 7)
    assert Encoder(HashedCategories(rows=(5, 7)), None, num_sparse=2).rows == (5, 7)
    with pytest.raises(ConfigError, match=r"categories\.rows: gives 2 table sizes for 3 sparse columns"):
        Encoder(HashedCategories(rows=(5, 7)), None, num_sparse=3)


def test_threads_can_share_an_encoder():
    categories_FM, missing_FM = chunk()
    encoder = Encoder(SEPARATE, vocabularies_of(categories_FM, missing_FM, SEPARATE))
    expected = encoder.encode(categories_FM, missing_FM)
    with ThreadPoolExecutor(3) as pool:
        for ids_MF in pool.map(lambda _: encoder.encode(categories_FM, missing_FM), range(6)):
            assert (ids_MF == expected).all()


def test_vocabularies_can_be_memory_maps(tmp_path):
    categories_FM, missing_FM = chunk(columns=1)
    values = distinct(categories_FM)
    np.save(tmp_path / "values.npy", values)
    mapped = Encoder(SEPARATE, [np.load(tmp_path / "values.npy", mmap_mode="r")])
    in_memory = Encoder(SEPARATE, [values])
    assert (mapped.encode(categories_FM, missing_FM) == in_memory.encode(categories_FM, missing_FM)).all()


def ids_of(values, categories, is_missing):
    ids = np.full(len(categories), -7, np.int32)
    SortedValues(values).ids(categories, is_missing, Reserved(missing=0, absent=1, first=2), ids)
    return ids


def ids_by_dict(values, categories, is_missing):
    place = {value: i + 2 for i, value in enumerate(values.tolist())}
    rows = zip(categories.tolist(), is_missing.tolist(), strict=True)
    return [0 if gone else place.get(value, 1) for value, gone in rows]


@pytest.mark.parametrize("name", clustered_columns())
def test_values_and_what_lies_beside_them_have_the_ids_of_a_dict(name):
    values = distinct(clustered_columns()[name])
    beside = np.concatenate([values, values + np.uint32(1), values - np.uint32(1), [0, HIGHEST, 2**31]])
    categories = np.random.default_rng(0).permutation(beside).astype(np.uint32)
    column = present(*categories)
    assert ids_of(values, *column).tolist() == ids_by_dict(values, *column)


@pytest.mark.parametrize("size", [0, 1, 2, 3, 17, 511, 512, 513, 4096])
@pytest.mark.parametrize("rows", [0, 1, 511, 512, 513, 2000])
def test_vocabularies_and_columns_of_all_sizes_have_the_ids_of_a_dict(size, rows):
    categories, is_missing = skewed_column(rows=max(rows, 3))
    column = categories[:rows], is_missing[:rows]
    values = distinct(np.random.default_rng(size).permutation(categories)[:size])
    assert ids_of(values, *column).tolist() == ids_by_dict(values, *column)


def test_a_large_vocabulary_of_hashes_has_the_places_that_searchsorted_finds():
    rng = np.random.default_rng(3)
    values = distinct(rng.integers(0, 2**32, 3_000_000))
    categories = rng.choice(values, 100_000)
    assert (ids_of(values, *present(*categories)) == 2 + np.searchsorted(values, categories)).all()


def test_every_second_value_is_absent():
    values = distinct(np.arange(0, 2_000_000, 2))
    column = present(*np.arange(2_000_001))
    expected = np.where(column[0] % 2, 1, 2 + column[0] // 2)
    expected[-1] = 1
    assert (ids_of(values, *column) == expected).all()
