import itertools

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score
from sklearn.preprocessing import TargetEncoder

from dlrm.diagnose.information import Values, auc, auc_deviation, scores


def test_auc_is_scikit_learns_with_ties():
    rng = np.random.default_rng(0)
    scores_M, labels_M = rng.integers(0, 9, 500).astype(float), (rng.random(500) < 0.3).astype(float)
    assert auc(scores_M, labels_M) == pytest.approx(roc_auc_score(labels_M, scores_M), abs=1e-12)
    assert auc(scores_M, np.ones(500)) is None


def test_its_deviation_by_chance_is_that_of_all_orders():
    labels_M = np.array([1, 1, 0, 0, 0, 0])
    aucs = [auc(np.array(order), labels_M) for order in itertools.permutations(range(6))]
    assert auc_deviation(labels_M) == pytest.approx(np.std(aucs))


def test_the_rates_of_ids_are_scikit_learns_smoothed_ones():
    rng = np.random.default_rng(1)
    ids_M, labels_M = rng.integers(0, 30, 2000), (rng.random(2000) < 0.2).astype(float)
    others_B = np.arange(32)  # of which two were not seen
    found = scores(
        Values("cat", ids_M, np.arange(2000)), labels_M, of=Values("cat", others_B, np.arange(32)), samples=32
    )
    encoder = TargetEncoder(smooth=20.0, target_type="continuous").fit(ids_M[:, None], labels_M)
    rate_B = encoder.transform(others_B[:, None])[:, 0]
    prior = labels_M.mean()
    np.testing.assert_allclose(found, np.log(rate_B / (1 - rate_B)) - np.log(prior / (1 - prior)), atol=1e-12)


def test_a_sample_is_scored_by_the_rates_of_other_samples():
    labels_M = (np.arange(1000) % 3 == 0).astype(float)
    assert not scores(Values("row", np.arange(1000), np.arange(1000)), labels_M).any()  # each id is met once


def test_missing_labels_count_nowhere():
    labels_M = np.array([1.0, 0.0, np.nan, 1.0] * 100)
    ids_M = np.arange(400) % 4
    values, kept = Values("cat", ids_M, np.arange(400)), ~np.isnan(labels_M)
    of = Values("cat", np.arange(4), np.arange(4))
    without = Values("cat", ids_M[kept], np.arange(kept.sum()))
    expected = scores(without, labels_M[kept], of=of, samples=4)
    np.testing.assert_array_equal(scores(values, labels_M, of=of, samples=4), expected)
