import math
import statistics

import numpy as np
import pytest

from dlrm.config.data import DenseTransform
from dlrm.data.raw.dense_transform import DenseColumns, DenseConstants, bucket_of
from dlrm.data.raw.raw_rows import MISSING_INTEGER

RAW = [0, 1, 2, 5, -1, -2, -3, -(10**17), 65535, 10**18 - 1, MISSING_INTEGER]


def dense_values(raw, transform, *, train_rows):
    """One column, fitted to its first rows; float32."""
    constants = DenseConstants.of(raw[:train_rows], transform)
    return DenseColumns(transform.minimum, transform.shift, [constants]).encode(raw[None])[:, 0]


@pytest.mark.parametrize(("shift", "minimum", "missing"), [(3.0, -2.0, 0.0), (1.0, 0.0, 0.0), (4.5, -3.25, -3.0)])
def test_values_are_the_logarithm_of_the_clamped_and_shifted_integer(shift, minimum, missing):
    transform = DenseTransform(shift=shift, minimum=minimum, missing=missing)
    values = dense_values(np.array(RAW), transform, train_rows=3)
    by_hand = [math.log(max(missing if x == MISSING_INTEGER else x, minimum) + shift) for x in RAW]
    np.testing.assert_allclose(values, by_hand, rtol=1e-7, atol=1e-7)


def test_standardising_uses_mean_and_deviation_of_the_present_training_rows_alone():
    train, rest = [*RAW[:6], MISSING_INTEGER], RAW[6:]
    values = dense_values(np.array(train + rest), DenseTransform(standardise=True), train_rows=len(train))
    logs = [math.log(max(0 if x == MISSING_INTEGER else x, -2) + 3) for x in train + rest]
    mean, deviation = statistics.fmean(logs[:6]), statistics.pstdev(logs[:6])
    np.testing.assert_allclose(values, [(x - mean) / deviation for x in logs], rtol=2e-7)


@pytest.mark.parametrize("standardise", [False, True])
def test_missing_values_can_be_the_mean_of_the_training_rows(standardise):
    raw = np.array([1, MISSING_INTEGER, 10, 100, MISSING_INTEGER, 5])
    transform = DenseTransform(missing="mean", standardise=standardise)
    values = dense_values(raw, transform, train_rows=3)
    mean = 0.0 if standardise else (math.log(4) + math.log(13)) / 2
    np.testing.assert_allclose(values[[1, 4]], mean, atol=2e-7)


@pytest.mark.parametrize("constant", [0, 7, MISSING_INTEGER])
def test_a_column_that_is_constant_in_training_is_only_centred(constant):
    values = dense_values(np.array([constant] * 1000 + [97]), DenseTransform(standardise=True), train_rows=1000)
    here = math.log((0 if constant == MISSING_INTEGER else constant) + 3)
    np.testing.assert_allclose(values, [0.0] * 1000 + [math.log(100) - here], atol=5e-7)


def test_buckets_are_those_of_the_docstring():
    raw = np.array([-(10**17), -3, -2, -1, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 2**31 - 1, 2**31, 10**18 - 1])
    largest = 5 + math.floor(math.log(2**31 - 1) ** 2)
    assert bucket_of(raw).tolist() == [0, 0, 1, 2, 3, 4, 5, 6, 6, 7, 8, 8, 9, 9, 10, largest, largest, largest]


def test_buckets_agree_with_logarithms_taken_one_by_one_and_grow_with_the_integers():
    raw = np.unique(np.concatenate([np.arange(3, 5000), np.geomspace(5000, 2**31 - 1, 5000).astype(np.int64)]))
    buckets = bucket_of(raw)
    assert buckets.tolist() == [5 + math.floor(math.log(x) ** 2) for x in raw.tolist()]
    assert (np.diff(buckets) >= 0).all()
