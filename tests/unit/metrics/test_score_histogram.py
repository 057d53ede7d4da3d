import numpy as np
import pytest
import torch
from sklearn.metrics import average_precision_score, roc_auc_score

from dlrm.metrics.score_histogram import ScoreHistogram

CPU = torch.device("cpu")
MILLION = 1_000_000


def histogram_of(scores, positive, **options):
    histogram = ScoreHistogram(CPU, **options)
    histogram.add(torch.as_tensor(scores, dtype=torch.float32), torch.as_tensor(positive, dtype=torch.bool))
    return histogram


def assert_same(a, b):
    assert a.level == b.level
    assert torch.equal(a.cells_C, b.cells_C)
    assert torch.equal(a.counts_C, b.counts_C)


def keys_by_numpy(scores):
    """The rank-preserving integers of float32 scores, through their unsigned bits (independent of torch's int32 view)."""
    bits = (np.asarray(scores, dtype=np.float32) + np.float32(0)).view(np.uint32).astype(np.int64)
    return np.where(bits >> 31 == 1, (1 << 32) - 1 - bits, bits + (1 << 31))


SHAPES = {
    "normal": lambda rng, normal: normal,
    "seven distinct values": lambda rng, normal: np.round(normal.clip(-3, 3)),
    "tiny probabilities around 1e-4": lambda rng, normal: -9.2 + 0.3 * normal,
    "all saturated near 1": lambda rng, normal: 40 + 30 * np.abs(normal),
    "bimodal": lambda rng, normal: np.where(rng.random(MILLION) < 0.7, -12, 9) + 0.2 * normal,
    "constant": lambda rng, normal: 0 * normal,
    "a band of width 0.001 around 5": lambda rng, normal: 5 + 0.001 * normal,
    "every magnitude from 1e30 to 1e-45": lambda rng, normal: np.sign(normal) * 10.0 ** (30 - 75 * rng.random(MILLION)),
}


@pytest.mark.parametrize("shape", SHAPES)
def test_auc_of_a_million_predictions_is_that_of_scikit_learn_and_average_precision_of_some(shape):
    rng = np.random.default_rng(7)
    scores = SHAPES[shape](rng, rng.standard_normal(MILLION)).astype(np.float32)
    order = scores.argsort().argsort() / MILLION  # labels that the scores can tell something about
    positive = rng.random(MILLION) < 0.1 + 0.3 * order
    auc = histogram_of(scores, positive).auc()
    assert auc.value == pytest.approx(roc_auc_score(positive, scores), abs=1e-12)
    assert auc.error_bound == 0.0
    scores, positive = scores[:100_000], positive[:100_000]
    precision = histogram_of(scores, positive).average_precision()
    assert precision.value == pytest.approx(average_precision_score(positive, scores), abs=1e-12)
    assert precision.error_bound == 0.0


def test_auc_beyond_the_capacity_stays_within_its_bound_and_far_within_1e_6():
    rng = np.random.default_rng(3)
    scores = rng.standard_normal(300_000).astype(np.float32)
    positive = rng.random(300_000) < 1 / (1 + np.exp(-scores))
    histogram = histogram_of(scores, positive, capacity_cells=1 << 17)
    auc = histogram.auc()
    error = abs(auc.value - roc_auc_score(positive, scores))
    assert histogram.level > 0
    assert error <= auc.error_bound < 1e-4
    assert error < 1e-7


@pytest.mark.parametrize("capacity", [2, 60, 1000, 20_000])
@pytest.mark.parametrize("rate", [0.01, 0.9])
def test_average_precision_beyond_the_capacity_stays_within_its_bound(capacity, rate):
    rng = np.random.default_rng(capacity)
    positive = rng.random(30_000) < rate
    scores = (rng.standard_normal(30_000) + positive).astype(np.float32)
    histogram = histogram_of(scores, positive, capacity_cells=capacity)
    found = histogram.average_precision()
    assert histogram.level > 0
    binned = keys_by_numpy(scores) >> histogram.level
    assert found.value == pytest.approx(average_precision_score(positive, binned), abs=1e-12)
    assert abs(found.value - average_precision_score(positive, scores)) <= found.error_bound


def test_average_precision_is_the_mean_precision_at_the_positives_by_hand():
    histogram = histogram_of([3.0, 2.0, 2.0, 1.0, 0.0], [True, False, True, False, True])
    assert histogram.average_precision().value == pytest.approx((1 + 2 / 3 + 3 / 5) / 3, abs=1e-15)
    assert histogram_of([1.0, 2.0], [False, False]).average_precision() is None
    assert histogram_of([1.0, 2.0], [True, True]).average_precision().value == 1.0


def test_the_largest_score_of_a_bin_is_that_of_its_last_key():
    scores = torch.tensor([-float(2**100), -1.5, -0.0, 1e-45, 7.25])
    assert histogram_of(scores, [False] * 5).largest_scores().tolist() == scores.tolist()
    coarse = histogram_of(torch.linspace(-3, 3, 1000), [False] * 1000, capacity_cells=20)
    largest = coarse.largest_scores().numpy()
    bins = (keys_by_numpy(largest) >> coarse.level).tolist()
    assert bins == coarse.cells_C.tolist()
    assert (keys_by_numpy(np.nextafter(largest, np.float32(9))) >> coarse.level != bins).all()


@pytest.mark.parametrize("seed", range(20))
def test_order_division_and_merging_do_not_change_a_single_bit(seed):
    rng = np.random.default_rng(seed)
    size = int(rng.integers(1, 3000))
    scores = rng.standard_normal(size) * 10.0 ** rng.integers(-3, 3)
    scores = (np.round(scores, 1) if seed % 2 else scores).astype(np.float32)
    positive = rng.random(size) < rng.random()
    capacity = int(rng.choice([2, 3, 50, 700, 10_000]))
    together = histogram_of(scores, positive, capacity_cells=capacity)

    order = rng.permutation(size)
    parts = np.array_split(order, np.sort(rng.integers(0, size + 1, size=int(rng.integers(0, 12)))))
    merged = ScoreHistogram(CPU, capacity_cells=capacity)
    for group in (parts[::2], parts[1::2]):
        partial = ScoreHistogram(CPU, capacity_cells=capacity)
        for part in group:
            partial.add(torch.from_numpy(scores[part]), torch.from_numpy(positive[part]))
        merged.merge(partial)
    assert_same(merged, together)
    assert merged.auc() == together.auc()


@pytest.mark.parametrize("capacity", [2, 10, 300, 100_000])
def test_the_level_is_the_lowest_that_fits_and_the_auc_that_of_the_binned_scores(capacity):
    rng = np.random.default_rng(capacity)
    scores = rng.standard_normal(5000).astype(np.float32)
    positive = rng.random(5000) < 0.3
    histogram = histogram_of(scores, positive, capacity_cells=capacity)
    keys = keys_by_numpy(scores)

    def cells_at(level):
        return len(np.unique(np.stack([keys >> level, positive]), axis=1).T)

    assert cells_at(histogram.level) == histogram.cells_C.numel() <= capacity
    assert histogram.level == 0 or cells_at(histogram.level - 1) > capacity
    assert histogram.auc().value == pytest.approx(roc_auc_score(positive, keys >> histogram.level), abs=1e-15)


def test_neighbouring_floats_are_told_apart_and_signed_zeros_are_not():
    one = torch.tensor(1.0)
    above = torch.nextafter(one, torch.tensor(2.0))
    assert histogram_of(torch.stack([one, above]), [False, True]).auc().value == 1.0
    assert histogram_of(torch.stack([-one, -above]), [False, True]).auc().value == 0.0
    assert histogram_of(torch.tensor([-0.0, 0.0]), [False, True]).auc().value == 0.5
    smallest = torch.tensor(1e-45)
    assert histogram_of(torch.stack([-smallest, smallest]), [False, True]).auc().value == 1.0


@pytest.mark.parametrize("positive", [[], [True, True], [False, False]])
def test_a_single_class_has_no_auc(positive):
    assert histogram_of(torch.arange(float(len(positive))), positive).auc() is None


def test_counts_far_above_what_float32_and_pairs_above_what_int64_can_hold_stay_exact():
    histogram = histogram_of([0.0, 1.0, 1.0, 2.0, 3.0], [False, True, False, True, False])
    exact = histogram.auc().value
    for _ in range(30):  # 2^30 copies of each sample: 2^31 positives and 3 * 2^30 negatives, 2 * P * N > 2^63
        histogram.merge(histogram)
    assert int(histogram.counts_C.sum()) == 5 << 30
    assert histogram.auc().value == exact == 3.5 / 6
