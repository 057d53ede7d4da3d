from collections import Counter

import numpy as np
import pytest
import torch

from dlrm.data.raw.raw_rows import MISSING_CATEGORY
from dlrm.data.raw.sparse_ids import SparseIds
from dlrm.data.raw.vocabulary import MISSING_ID, UNSEEN_ID, Vocabulary, hashed_ids

HIGHEST = 2**32 - 1


def skewed_categories(count=3000) -> np.ndarray:
    rng = np.random.default_rng(0)
    categories = (rng.zipf(1.3, count) * 2654435761) % 2**32
    categories[rng.random(count) < 0.1] = MISSING_CATEGORY
    categories[:3] = (0, HIGHEST, HIGHEST)
    return categories


def encode(vocabulary: Vocabulary, categories: np.ndarray) -> np.ndarray:
    return SparseIds([vocabulary]).encode(categories[None])[:, 0]


@pytest.mark.parametrize("min_count", [1, 2, 5, 10_000])
def test_ids_follow_descending_training_count_then_value_as_a_counter_has_them(min_count):
    categories = skewed_categories()
    counts = Counter(c for c in categories.tolist() if c != MISSING_CATEGORY)
    kept = sorted((c for c in counts if counts[c] >= min_count), key=lambda c: (-counts[c], c))
    by_hand = {c: 2 + place for place, c in enumerate(kept)} | {MISSING_CATEGORY: 0}

    vocabulary = Vocabulary.of(categories, min_count=min_count)
    assert vocabulary.rows == 2 + len(kept)
    assert encode(vocabulary, categories).tolist() == [by_hand.get(c, 1) for c in categories.tolist()]


def test_unseen_categories_and_missing_ones_have_ids_of_their_own():
    vocabulary = Vocabulary.of(np.array([5, 5, 7, MISSING_CATEGORY]), min_count=1)
    encoded = encode(vocabulary, np.array([0, 4, 6, 8, HIGHEST, MISSING_CATEGORY, 5, 7]))
    assert encoded.tolist() == [UNSEEN_ID] * 5 + [MISSING_ID, 2, 3]


def test_a_column_without_categories_has_the_two_reserved_ids_only():
    vocabulary = Vocabulary.of(np.array([MISSING_CATEGORY] * 3), min_count=1)
    assert vocabulary.rows == 2
    assert encode(vocabulary, np.array([MISSING_CATEGORY, 0, 9])).tolist() == [MISSING_ID, UNSEEN_ID, UNSEEN_ID]


@pytest.mark.parametrize("rows", [2, 3, 1000])
def test_hashed_ids_lie_in_the_table_and_only_missing_is_zero(rows):
    categories = skewed_categories()
    ids = hashed_ids(categories, column="cat_0", rows=rows)
    assert ((ids == MISSING_ID) == (categories == MISSING_CATEGORY)).all()
    assert ids.max() < rows
    assert ids.min() >= 0


def splitmix64(key: int, counter: int) -> int:
    """Steele, Lea and Flood (2014), figure 16, in unbounded integers."""
    mask = 2**64 - 1
    z = (key + counter * 0x9E3779B97F4A7C15) & mask
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & mask
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & mask
    return z ^ (z >> 31)


def test_hashed_ids_are_those_of_the_published_mixing_function():
    from dlrm.counter_rng import stream_key

    categories = np.array([0, 1, 0x68FD1E64, HIGHEST])
    key = stream_key(0, "category", "cat_3")
    expected = [1 + (splitmix64(key, c) >> 1) % 99 for c in categories.tolist()]
    assert hashed_ids(categories, column="cat_3", rows=100).tolist() == expected


def test_hashing_spreads_neighbouring_categories_evenly():
    ids = hashed_ids(np.arange(100_000) * 4096, column="cat_0", rows=101)
    counts = np.bincount(ids, minlength=101)[1:]
    chi_squared = ((counts - 1000.0) ** 2 / 1000.0).sum()
    assert 99 - 5 * np.sqrt(2 * 99) < chi_squared < 99 + 5 * np.sqrt(2 * 99)


def test_columns_hash_differently():
    categories = np.arange(1000)
    first, second = (torch.from_numpy(hashed_ids(categories, column=c, rows=1000)) for c in ("cat_0", "cat_1"))
    assert (first == second).float().mean() < 0.02
