"""Means, paired differences and choices against scipy and by hand."""

import numpy as np
import pytest
from scipy import stats

from dlrm.studies.choice import Trial, choose
from dlrm.studies.statistics import Estimate, estimate, paired


def test_a_mean_has_the_standard_error_of_scipy():
    values = [0.71, 0.74, 0.70, 0.78, 0.73]
    found = estimate(values)
    assert (found.mean, found.count) == (pytest.approx(np.mean(values)), 5)
    assert found.error == pytest.approx(stats.sem(values))
    assert estimate([0.5]) == Estimate(0.5, None, 1)
    assert estimate([]) is None


def test_a_difference_is_of_pairs_with_one_seed():
    mine = {1: 0.80, 2: 0.70, 3: 0.92, 9: 0.1}
    other = {3: 0.90, 1: 0.79, 2: 0.68, 8: 0.9}  # in another order, and seeds that the other has not
    found = paired(mine, other, noise=0.0, smaller_is_better=False)
    differences = [0.01, 0.02, 0.02]
    assert found.estimate.mean == pytest.approx(np.mean(differences))
    assert found.estimate.error == pytest.approx(stats.sem(differences))
    t = stats.ttest_rel([0.80, 0.70, 0.92], [0.79, 0.68, 0.90]).statistic
    assert found.estimate.mean / found.estimate.error == pytest.approx(t)
    assert found.threshold == pytest.approx(2 * stats.sem(differences))


@pytest.mark.parametrize(
    ("mine", "noise", "smaller", "verdict"),
    [
        ((0.81, 0.82, 0.81), 0.0, False, "better"),
        ((0.81, 0.82, 0.81), 0.0, True, "worse"),
        ((0.81, 0.82, 0.81), 0.05, False, "noise"),  # larger than its error, and below the noise floor
        ((0.79, 0.78, 0.79), 0.0, False, "worse"),
        ((0.90, 0.70, 0.85), 0.0, False, "noise"),  # 0.017 +- 0.06
        ((0.80, 0.80, 0.80), 0.0, False, "noise"),
        ((0.81,), 0.0, False, "unknown"),
    ],
)
def test_a_difference_within_its_error_or_the_noise_floor_is_noise(mine, noise, smaller, verdict):
    found = paired(dict(enumerate(mine)), dict.fromkeys(range(3), 0.80), noise=noise, smaller_is_better=smaller)
    assert found.verdict == verdict
    assert paired({1: 0.5}, {2: 0.5}, noise=noise, smaller_is_better=smaller) is None


def test_the_choice_has_the_best_mean_of_all_seeds_and_the_first_of_equal_ones():
    trials = [
        Trial(0, {}, {}, {0: 0.70, 1: 0.80}),
        Trial(1, {}, {}, {0: 0.78, 1: 0.74}),  # the best mean, and in no seed the best
        Trial(2, {}, {}, {0: 0.76, 1: 0.76}),
        Trial(3, {}, {}, {0: 0.99}),  # diverged with the other seed
    ]
    assert choose(trials, (0, 1), "auc") is trials[1]
    assert choose(trials, (0, 1), "log_loss") is trials[0]
    assert choose(trials, (0,), "auc") is trials[3]
    assert choose(trials[3:], (0, 1), "auc") is None
