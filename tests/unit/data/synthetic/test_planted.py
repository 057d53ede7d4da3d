"""The planted generator: reproducible, of the announced distributions, and with labels that its true logits explain."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import sparse, stats
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

from dlrm.config.data import PlantedData
from dlrm.data.batch import make_batch
from dlrm.data.synthetic.hidden_model import HiddenModel
from dlrm.data.synthetic.planted import PlantedSource, planted_dataset

MANY = 100_000


@pytest.fixture(scope="module", autouse=True)
def _one_thread():
    """Small tensors gain nothing from a second thread, and on a busy machine wait for it."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def config() -> PlantedData:
    return PlantedData()


@pytest.fixture(scope="module")
def dataset(config):
    return planted_dataset(config)


@pytest.fixture(scope="module")
def many(dataset):
    return dataset.test.read(torch.arange(MANY))


@pytest.fixture(scope="module")
def true_logits(dataset):
    return dataset.test.true_logits(torch.arange(MANY))[:, 0]


def test_samples_have_the_shapes_and_types_of_the_protocol(dataset, config):
    samples = dataset.train.read(torch.tensor([3, 700_000, 3]))
    assert samples.dense_BN.shape == (3, 13)
    assert samples.ids_BS.shape == (3, 26)
    assert samples.labels_BT.shape == (3, 1)
    assert samples.dense_BN.dtype == torch.float32
    assert samples.ids_BS.dtype == torch.int64
    assert samples.labels_BT[:, 0].dtype == torch.float32
    assert tuple(feature.rows for feature in dataset.schema.sparse) == config.rows
    assert [s.num_samples for s in (dataset.train, dataset.validation, dataset.test)] == [800_000, 50_000, 100_000]


def test_a_sample_is_the_same_in_every_order_portion_and_process(dataset, config):
    order = torch.randperm(10_000, generator=torch.Generator().manual_seed(0)) * 79
    whole = dataset.train.read(order)
    logits = dataset.train.true_logits(order)
    alone = PlantedSource(config, "train")  # with a hidden model of its own, as another rank has
    start = 0
    for size in (1, 2, 3, 5, 17, 1021, 2048, 2049, 4096, 758):
        part = slice(start, start + size)
        samples = alone.read(order[part])
        assert torch.equal(samples.dense_BN, whole.dense_BN[part])
        assert torch.equal(samples.ids_BS, whole.ids_BS[part])
        assert torch.equal(samples.labels_BT[:, 0], whole.labels_BT[:, 0][part])
        assert torch.equal(alone.true_logits(order[part]), logits[part])
        start += size
    assert start == len(order)
    backwards = dataset.train.true_logits(order.flip(0))
    assert torch.equal(backwards.flip(0), logits)


def test_the_number_of_threads_changes_no_sample(dataset, config):
    index = torch.arange(5000)
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        single = PlantedSource(config, "train")
        logits, samples = single.true_logits(index)[:, 0], single.read(index)
        torch.set_num_threads(2)
        double = PlantedSource(config, "train")
        assert torch.equal(double.true_logits(index)[:, 0], logits)
        assert torch.equal(double.read(index).ids_BS, samples.ids_BS)
    finally:
        torch.set_num_threads(threads)


def test_no_sample_at_all_can_be_read(dataset):
    none = torch.empty(0, dtype=torch.int64)
    assert len(dataset.train.read(none)) == 0
    assert dataset.train.true_logits(none).shape == (0, 1)


def test_splits_and_seeds_hold_different_samples(dataset, config):
    def rows(source):
        samples = source.read(torch.arange(2000))
        return {tuple(row) for row in torch.cat([samples.ids_BS.double(), samples.dense_BN.double()], 1).tolist()}

    sources = [dataset.train, dataset.validation, dataset.test]
    sources.append(PlantedSource(config.model_copy(update={"seed": 1}), "train"))
    all_rows = [rows(source) for source in sources]
    assert [len(part) for part in all_rows] == [2000] * 4  # no sample twice within a split either
    assert len(set.union(*all_rows)) == 8000


def test_splits_have_the_same_hidden_model_and_click_rate(dataset):
    index = torch.arange(50_000)
    rates = [source.read(index).labels_BT[:, 0].mean().item() for source in (dataset.train, dataset.validation)]
    assert rates[0] == pytest.approx(rates[1], abs=4 * (2 * 0.25 * 0.75 / 50_000) ** 0.5)
    for source in (dataset.train, dataset.validation):
        assert roc_auc_score(source.read(index).labels_BT[:, 0], source.true_logits(index)[:, 0]) == pytest.approx(
            0.843, abs=0.01
        )


@pytest.mark.parametrize("exponent", [0.0, 1.05, 2.0])
def test_ids_follow_zipfs_law(exponent):
    config = PlantedData(rows=(3, 40, 1000), zipf_exponent=exponent)
    ids = PlantedSource(config, "train").read(torch.arange(60_000)).ids_BS.numpy()
    for column, rows in enumerate(config.rows):
        expected = np.arange(1, rows + 1, dtype=np.float64) ** -exponent
        expected *= 60_000 / expected.sum()
        counts = np.bincount(ids[:, column], minlength=rows)
        assert len(counts) == rows
        common = expected >= 5
        observed = np.append(counts[common], counts[~common].sum())
        wanted = np.append(expected[common], expected[~common].sum())
        keep = wanted > 0
        assert stats.chisquare(observed[keep], wanted[keep]).pvalue > 1e-3


def test_columns_are_drawn_independently(many):
    ids = many.ids_BS.numpy()
    frequent = (ids == 0).astype(np.float64)
    correlation = np.corrcoef(frequent.T) - np.eye(26)
    assert np.abs(correlation).max() < 5 / MANY**0.5


def test_dense_features_are_finite_skewed_log_counts(many):
    dense = many.dense_BN.double().numpy()
    assert np.isfinite(dense).all()
    counts = np.expm1(dense)
    assert np.allclose(counts, counts.round(), rtol=1e-5, atol=1e-5)
    assert (counts >= -1e-9).all()
    assert (stats.skew(counts, axis=0) > 2).all()
    assert (dense.std(0) > 0.3).all()
    assert ((dense == 0).mean(0) > 0.02).any()


@pytest.mark.parametrize("rate", [0.03, 0.25, 0.5])
def test_the_click_rate_is_as_configured(rate):
    source = PlantedSource(PlantedData(click_rate=rate), "train")
    labels = source.read(torch.arange(50_000)).labels_BT[:, 0]
    assert set(labels.unique().tolist()) == {0.0, 1.0}
    # 3 sigma of the labels, and of the 65,536 samples that the bias was set by.
    sigma = (rate * (1 - rate) * (1 / 50_000 + 1 / 65_536)) ** 0.5
    assert labels.mean().item() == pytest.approx(rate, abs=3 * sigma)


@pytest.mark.parametrize("signal", [0.5, 1.7])
def test_the_true_logit_has_the_configured_spread(signal):
    logits = PlantedSource(PlantedData(signal=signal), "train").true_logits(torch.arange(50_000))[:, 0]
    assert logits.std().item() == pytest.approx(signal, rel=0.02)


def test_labels_come_up_as_often_as_the_true_logit_says(many, true_logits):
    probability = torch.sigmoid(true_logits).numpy()
    labels = many.labels_BT[:, 0].numpy()
    for group in np.array_split(np.argsort(probability), 20):
        expected, sigma = probability[group].sum(), np.sqrt((probability[group] * (1 - probability[group])).sum())
        assert abs(labels[group].sum() - expected) < 4 * sigma


def test_dense_features_tell_something_about_the_label(many):
    correlation = [np.corrcoef(column, many.labels_BT[:, 0].numpy())[0, 1] for column in many.dense_BN.numpy().T]
    assert np.abs(correlation).max() > 0.05


def test_the_true_logit_beats_logistic_regression_on_one_hot_features(dataset, many, true_logits):
    train = dataset.train.read(torch.arange(60_000))
    mean, std = train.dense_BN.mean(0), train.dense_BN.std(0)
    first_row = torch.tensor([0, *(feature.rows for feature in dataset.schema.sparse)]).cumsum(0)

    def features(samples):
        columns = (samples.ids_BS + first_row[:-1]).numpy()
        ones, starts = np.ones(columns.size), np.arange(len(samples) + 1) * columns.shape[1]
        one_hot = sparse.csr_matrix((ones, columns.ravel(), starts), shape=(len(samples), int(first_row[-1])))
        return sparse.hstack([sparse.csr_matrix(((samples.dense_BN - mean) / std).numpy()), one_hot]).tocsr()

    linear = LogisticRegression(C=0.02, max_iter=30, tol=1e-3).fit(features(train), train.labels_BT[:, 0].numpy())
    linear_auc = roc_auc_score(many.labels_BT[:, 0], linear.decision_function(features(many)))
    best_auc = roc_auc_score(many.labels_BT[:, 0], true_logits)
    assert 0.75 < linear_auc < best_auc - 0.025
    assert 0.82 < best_auc < 0.86


def test_products_hold_no_first_order_effect_of_a_table(dataset):
    # Given the id of one table, the mean of each product part is the same whatever the id: what centring is for.
    hidden = HiddenModel(PlantedData())
    drawn = hidden.draw("train", torch.arange(65_536))
    pairs = hidden._logits[0]._parts(drawn)[2]
    pairs = (pairs - pairs.mean()) / pairs.std()
    for ids in drawn.ids_FB[:12]:
        frequent = ids == 0
        sigma = 1 / frequent.sum().item() ** 0.5
        assert abs(pairs[frequent].mean().item()) < 5 * sigma


@pytest.mark.parametrize(
    "shape",
    [
        {"rows": (7,), "num_dense": 1},
        {"rows": (1, 1), "num_dense": 2},
        {"rows": (50,) * 3, "num_dense": 512, "rank": 1},
        {"rows": (9, 400), "num_dense": 5, "rank": 11},
    ],
)
def test_other_shapes_keep_click_rate_and_spread(shape):
    source = PlantedSource(PlantedData(**shape), "train")
    index = torch.arange(20_000)
    samples, logits = source.read(index), source.true_logits(index)[:, 0]
    assert samples.ids_BS.shape == (20_000, len(shape["rows"]))
    assert samples.dense_BN.shape == (20_000, shape["num_dense"])
    assert logits.std().item() == pytest.approx(1.7, rel=0.04)
    assert samples.labels_BT[:, 0].mean().item() == pytest.approx(0.25, abs=0.015)
    assert torch.equal(source.true_logits(index[777:1000])[:, 0], logits[777:1000])


def test_large_tables_and_far_indices_work():
    config = PlantedData(rows=(3_000_000, 2), train_samples=10**12, zipf_exponent=0.5)
    samples = PlantedSource(config, "train").read(torch.arange(10**12 - 1000, 10**12))
    assert samples.ids_BS[:, 0].min() >= 0
    assert 1_000_000 < samples.ids_BS[:, 0].max() < 3_000_000
    assert samples.ids_BS.unique(dim=0).shape[0] > 950


def test_a_batch_is_laid_out_from_the_transposed_ids(dataset):
    samples = dataset.train.read(torch.arange(10))
    batch = make_batch(samples, dataset.schema, size=10, global_samples=10, world_size=1)
    for t, feature in enumerate(dataset.schema.sparse):
        assert torch.equal(batch.sparse[feature.name].values(), samples.ids_BS[:, t])


TASKS = {"tasks": ["click", "like", "follow"], "task_rates": [0.2, 0.05], "task_correlation": 0.6}


def test_tasks_have_their_rates_and_correlate_with_the_first_as_asked(dataset):
    source = PlantedSource(PlantedData(**TASKS), "train")
    index = torch.arange(MANY)
    labels_BT, logits_BT = source.read(index).labels_BT, source.true_logits(index)
    assert source.schema.tasks == ("click", "like", "follow")
    assert labels_BT.mean(0).tolist() == pytest.approx([0.25, 0.2, 0.05], abs=0.01)
    correlation = np.corrcoef(logits_BT.numpy().T)
    assert correlation[0, 1:] == pytest.approx([0.6, 0.6], abs=0.05)
    assert correlation[1, 2] == pytest.approx(0.36, abs=0.05)  # only by way of the first
    assert logits_BT.std(0).tolist() == pytest.approx([1.7] * 3, rel=0.04)
    for task in range(3):
        best = roc_auc_score(labels_BT[:, task], logits_BT[:, task])
        assert 0.8 < best < 0.9
        for other in {0, 1, 2} - {task}:  # of another task: worse
            assert roc_auc_score(labels_BT[:, task], logits_BT[:, other]) < best - 0.05


def test_the_first_task_and_the_features_do_not_depend_on_the_others(dataset):
    index = torch.arange(1000, 3000)
    alone, with_others = dataset.train.read(index), PlantedSource(PlantedData(**TASKS), "train").read(index)
    assert torch.equal(with_others.labels_BT[:, :1], alone.labels_BT)
    assert torch.equal(with_others.ids_BS, alone.ids_BS)
    assert torch.equal(with_others.dense_BN, alone.dense_BN)
    logits_BT = PlantedSource(PlantedData(**TASKS), "train").true_logits(index)
    assert torch.equal(logits_BT[:, :1], dataset.train.true_logits(index))


def test_labels_of_the_tasks_after_the_first_are_missing_as_often_as_asked():
    source = PlantedSource(PlantedData(**TASKS, task_missing=0.3), "train")
    labels_BT = source.read(torch.arange(20_000)).labels_BT
    assert labels_BT.isnan().float().mean(0).tolist() == pytest.approx([0, 0.3, 0.3], abs=0.01)
    assert torch.equal(source.read(torch.arange(700, 900)).labels_BT.nan_to_num(7), labels_BT[700:900].nan_to_num(7))
    there = PlantedSource(PlantedData(**TASKS), "train").read(torch.arange(20_000)).labels_BT
    assert torch.equal(labels_BT.where(~labels_BT.isnan(), there), there)


def test_rates_that_do_not_fit_the_tasks_are_a_mistake():
    with pytest.raises(ValueError, match="task_rates has 3 entries, tasks names 2 after the first"):
        PlantedData(**{**TASKS, "task_rates": [0.1, 0.2, 0.3]})


TEACHERS = {"linear": (1.0, 1.0, 1.0), "factorisation": (0.5, 1.0, 1.0), "cross": (0.5, 0.5, 1.0)}


@pytest.mark.parametrize("teacher", TEACHERS)
def test_teachers_have_the_interactions_that_they_are_said_to_have_and_no_others(teacher):
    # The analysis of variance of the true logit: what a function of one id, of two, of three at a time explains of it.
    rows, sizes = (4, 3, 5), {}
    source = PlantedSource(PlantedData(teacher=teacher, rows=rows, num_dense=2, zipf_exponent=0.3), "train")
    samples = source.read(torch.arange(8_000))
    logits = source.true_logits(torch.arange(8_000))[:, 0].numpy()
    a, b, c = (np.eye(n)[ids] for n, ids in zip(rows, samples.ids_BS.numpy().T, strict=True))
    pairs = [np.einsum("bi,bj->bij", one, two).reshape(8_000, -1) for one, two in ((a, b), (a, c), (b, c))]
    triples = np.einsum("bi,bj,bk->bijk", a, b, c).reshape(8_000, -1)
    features = [samples.dense_BN.numpy(), a, b, c, np.ones((8_000, 1))]
    for order, more in ((1, []), (2, pairs), (3, [triples])):
        features += more
        matrix = np.concatenate(features, axis=1)
        rest = logits - matrix @ np.linalg.lstsq(matrix, logits, rcond=None)[0]
        sizes[order] = 1 - rest.var() / logits.var()
    assert tuple(sizes.values()) == pytest.approx(TEACHERS[teacher], abs=0.04)


def test_a_linear_teacher_is_all_that_logistic_regression_can_learn():
    source = PlantedSource(PlantedData(teacher="linear", rows=(20, 10, 5), num_dense=3), "train")
    samples, true = source.read(torch.arange(30_000)), source.true_logits(torch.arange(30_000))[:, 0].numpy()
    one_hot = [np.eye(n)[ids] for n, ids in zip((20, 10, 5), samples.ids_BS.numpy().T, strict=True)]
    features, labels = np.concatenate([samples.dense_BN.numpy(), *one_hot], axis=1), samples.labels_BT[:, 0].numpy()
    fitted = LogisticRegression(C=10, max_iter=300).fit(features[:20_000], labels[:20_000])
    assert np.corrcoef(fitted.decision_function(features[20_000:]), true[20_000:])[0, 1] > 0.99


@pytest.mark.parametrize("teacher", TEACHERS)
def test_samples_of_every_teacher_are_the_same_in_every_portion_and_their_features_those_of_the_default(
    teacher, config
):
    source = PlantedSource(config.model_copy(update={"teacher": teacher}), "train")
    index = torch.arange(3000) * 7
    logits_BT = source.true_logits(index)
    assert torch.equal(torch.cat([source.true_logits(part) for part in index.split(701)]), logits_BT)
    assert logits_BT.std().item() == pytest.approx(1.7, rel=0.05)
    assert torch.equal(source.read(index).ids_BS, PlantedSource(config, "train").read(index).ids_BS)


def test_products_of_three_need_three_tables():
    source = PlantedSource(PlantedData(teacher="cross", rows=(7, 5), num_dense=1), "train")
    logits_B = source.true_logits(torch.arange(20_000))[:, 0]
    assert logits_B.std().item() == pytest.approx(1.7, rel=0.04)  # the other parts fill what is missing
