"""Columns of raw categories for the tests of vocabularies and ids."""

import numpy as np

HIGHEST = 2**32 - 1


def skewed_column(rows=20_000, seed=0, missing=0.1):
    """Raw values uint32 (M,), 0 where missing, and where they are missing, bool (M,); the extremes are among them."""
    rng = np.random.default_rng(seed)
    categories = ((rng.zipf(1.2, rows).astype(np.uint64) * 2654435761) % 2**32).astype(np.uint32)
    categories[rng.random(rows) < 0.02] = 0
    categories[rng.random(rows) < 0.02] = HIGHEST
    categories[:3] = 2**31 - 1, 2**31, 2**31 + 1
    is_missing = rng.random(rows) < missing
    categories[is_missing] = 0
    return categories, is_missing


def present(*values):
    """A column without missing values."""
    categories = np.array(values, np.uint32)
    return categories, np.zeros(len(categories), bool)


def clustered_columns():
    """Columns that no hash would make: by name, values whose low or high bits say nothing, dense or far apart."""
    rng = np.random.default_rng(1)
    return {
        "0 .. n": np.arange(5000),
        "0 .. n and the highest": np.append(np.arange(5000), HIGHEST),
        "the lowest and the last n": np.append(0, HIGHEST - np.arange(5000)),
        "multiples of 2^20": np.arange(4096) << 20,
        "multiples of 2^20 and their neighbours": (np.arange(4096) << 20)[:, None] + np.arange(2),
        "two far clusters": np.append(np.arange(3000) + 7, np.arange(3000) + 2**31),
        "powers of two": 1 << np.arange(32),
        "one word": np.arange(64),
        "one value": np.array([0]),
        "the highest value": np.array([HIGHEST]),
        "ever sparser": np.unique((1.01 ** np.arange(2230)).astype(np.int64)),
        "hashes": rng.integers(0, 2**32, 5000),
    }


def distinct(values):
    """The values uint32, ascending, each once."""
    return np.unique(np.asarray(values).ravel().astype(np.uint32))


def plain_vocabulary(categories, is_missing, config):
    """The vocabulary of a column, by numpy."""
    counted = categories if config.reserved == "mlperf" else categories[~is_missing]
    values, counts = np.unique(counted, return_counts=True)
    return values[counts >= config.min_count]
