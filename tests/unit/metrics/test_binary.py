import json
import math

import numpy as np
import pytest
import torch
from sklearn.metrics import accuracy_score, average_precision_score, log_loss, roc_auc_score

from dlrm.distributed.collectives import OneProcess
from dlrm.errors import DataError, DivergedError
from dlrm.metrics.binary import BinaryMetrics

CPU = torch.device("cpu")


def metrics_of(logits, labels, weights=None, *, batch=None, device=CPU, **options):
    logits = torch.as_tensor(logits, dtype=torch.float32)
    labels = torch.as_tensor(labels, dtype=torch.float32)
    weights = torch.ones_like(labels) if weights is None else torch.as_tensor(weights, dtype=torch.float32)
    metrics = BinaryMetrics(device, **options)
    size = batch or max(1, len(logits))
    for parts in zip(logits.split(size), labels.split(size), weights.split(size), strict=True):
        metrics.update(*(part.to(device) for part in parts))
    return metrics


def sample_set(seed, size=4000, offset=-1.0):
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(size, generator=generator) * 1.5 + offset
    labels = (torch.rand(size, generator=generator) < torch.sigmoid(logits * 0.8)).float()
    return logits, labels


@pytest.mark.parametrize("offset", [-9.0, -1.0, 0.0, 8.0])
def test_every_metric_is_that_of_scikit_learn_or_of_float64_by_hand(offset):
    logits, labels = sample_set(seed=1, offset=offset)
    labels[:2] = torch.tensor([0.0, 1.0])  # both classes, whatever the offset
    result = metrics_of(logits, labels, batch=333, buffer_samples=1000).compute()
    y = labels.numpy()
    p = 1 / (1 + np.exp(-logits.numpy().astype(np.float64)))
    rate = y.mean(dtype=np.float64)
    entropy = -(rate * math.log(rate) + (1 - rate) * math.log(1 - rate))
    assert result.samples == len(y)
    assert result.positives == int(y.sum())
    assert result.auc == pytest.approx(roc_auc_score(y, logits.numpy()), abs=1e-12)
    assert result.auc_error_bound == 0.0
    assert result.average_precision == pytest.approx(average_precision_score(y, logits.numpy()), abs=1e-12)
    assert result.average_precision_error_bound == 0.0
    assert result.log_loss == pytest.approx(log_loss(y, p), rel=1e-12)
    assert result.normalised_entropy == pytest.approx(log_loss(y, p) / entropy, rel=1e-12)
    assert result.accuracy == pytest.approx(accuracy_score(y, p > 0.5), abs=1e-15)
    assert result.calibration == pytest.approx(p.sum() / y.sum(), rel=1e-12)
    assert result.click_rate == pytest.approx(rate, rel=1e-12)
    assert result.mean_prediction == pytest.approx(p.mean(), rel=1e-12)


def test_a_million_predictions_agree_with_scikit_learn():
    logits, labels = sample_set(seed=2, size=1_000_000)
    result = metrics_of(logits, labels, batch=65_536).compute()
    p = torch.sigmoid(logits.double()).numpy()
    assert result.auc == pytest.approx(roc_auc_score(labels.numpy(), logits.numpy()), abs=1e-12)
    assert result.log_loss == pytest.approx(log_loss(labels.numpy(), p), rel=1e-12)


def test_predicting_the_click_rate_has_normalised_entropy_1_and_calibration_1():
    labels = torch.tensor([1.0] * 3 + [0.0] * 9)
    result = metrics_of(torch.full((12,), math.log(0.25 / 0.75)), labels).compute()
    assert result.normalised_entropy == pytest.approx(1.0, rel=1e-7)  # the logit is float32
    assert result.calibration == pytest.approx(1.0, rel=1e-7)
    assert result.auc == 0.5


def test_confident_logits_give_a_finite_exact_log_loss():
    assert metrics_of([1000.0, -1000.0], [0, 1]).compute().log_loss == pytest.approx(1000.0, rel=1e-15)
    sure_and_right = metrics_of([30.0, -30.0], [1, 0]).compute().log_loss
    assert sure_and_right == pytest.approx(math.log1p(math.exp(-30)), rel=1e-12)


@pytest.mark.parametrize("seed", range(10))
def test_padding_counts_for_nothing_even_where_it_is_nan(seed):
    rng = np.random.default_rng(seed)
    logits, labels = sample_set(seed, size=500)
    padded = torch.full((900,), float("nan"))
    padded_labels, weights = torch.zeros(900), torch.zeros(900)
    places = torch.from_numpy(np.sort(rng.permutation(900)[:500]))
    padded[places], padded_labels[places], weights[places] = logits, labels, 1.0
    padded[(weights == 0) & (torch.rand(900) < 0.5)] = 3.0
    assert metrics_of(padded, padded_labels, weights).compute() == metrics_of(logits, labels).compute()


@pytest.mark.parametrize("seed", range(10))
def test_any_division_into_updates_buffers_and_parts_gives_the_same_counts_and_auc(seed):
    rng = np.random.default_rng(seed)
    logits, labels = sample_set(seed, size=int(rng.integers(2, 3000)))
    logits = logits.round(decimals=1) if seed % 2 else logits
    options = {"histogram_cells": int(rng.choice([100, 10_000]))}
    once = metrics_of(logits, labels, **options)
    order = torch.from_numpy(rng.permutation(len(logits)))
    cut = int(rng.integers(0, len(logits) + 1))
    merged = metrics_of([], [], **options)
    for part in (order[:cut], order[cut:]):
        batch, buffer = int(rng.integers(1, 200)), int(rng.integers(1, 500))
        merged.merge(metrics_of(logits[part], labels[part], batch=batch, buffer_samples=buffer, **options))
    a, b = once.compute(), merged.compute()
    assert torch.equal(once.histogram.cells_C, merged.histogram.cells_C)
    assert torch.equal(once.histogram.counts_C, merged.histogram.counts_C)
    assert (a.samples, a.positives, a.auc, a.accuracy) == (b.samples, b.positives, b.auc, b.accuracy)
    assert a.log_loss == pytest.approx(b.log_loss, rel=1e-13)


def test_memory_does_not_grow_with_the_samples():
    metrics = BinaryMetrics(CPU, buffer_samples=256, histogram_cells=512)
    generator = torch.Generator().manual_seed(0)
    for _ in range(50):
        metrics.update(torch.randn(300, generator=generator), torch.zeros(300), torch.ones(300))
        assert metrics.histogram.cells_C.numel() <= 512
    assert metrics.compute().samples == 15_000


@pytest.mark.parametrize("label", [0.0, 1.0])
def test_a_single_class_has_no_auc_and_no_normalised_entropy_but_a_log_loss(label):
    result = metrics_of([0.5, -0.25, 2.0], [label] * 3).compute()
    assert (result.auc, result.auc_error_bound, result.normalised_entropy) == (None, None, None)
    p = 1 / (1 + np.exp([-0.5, 0.25, -2.0]))
    assert result.log_loss == pytest.approx(-np.log(p if label else 1 - p).mean(), rel=1e-12)
    assert result.calibration == (pytest.approx(p.mean(), rel=1e-12) if label else None)


def test_an_empty_set_defines_no_metric_and_fits_into_json():
    result = metrics_of([], []).compute().to_dict()
    assert (result["samples"], result["positives"]) == (0, 0)
    assert all(value is None for name, value in result.items() if name not in ("samples", "positives"))
    assert json.loads(json.dumps(result, allow_nan=False)) == result


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_a_prediction_that_is_not_finite_is_counted_and_refused(bad):
    metrics = metrics_of([0.0, bad, 1.0, bad], [0, 1, 1, 0], batch=1, buffer_samples=2)
    with pytest.raises(DivergedError, match="2 of 4 predictions are NaN or infinite"):
        metrics.compute()


def test_reducing_twice_or_updating_after_it_is_an_error():
    metrics = metrics_of([0.0, 1.0], [0, 1])
    metrics.all_reduce(OneProcess())
    assert metrics.compute().samples == 2
    with pytest.raises(RuntimeError, match="already hold the sum over all ranks"):
        metrics.all_reduce(OneProcess())
    with pytest.raises(RuntimeError, match="already hold the sum over all ranks"):
        metrics.update(torch.zeros(1), torch.zeros(1), torch.ones(1))


def test_shapes_that_differ_are_refused():
    with pytest.raises(ValueError, match=r"must be \(B,\), not \(2, 1\), \(2,\), \(2,\)"):
        BinaryMetrics(CPU).update(torch.zeros(2, 1), torch.zeros(2), torch.ones(2))


def test_logits_may_be_half_precision_or_carry_gradients_and_modes_may_change():
    values, labels = torch.tensor([0.5, -1.0, 2.0]), torch.tensor([1, 0, 1])
    with torch.inference_mode():
        metrics = BinaryMetrics(CPU, buffer_samples=2)
        metrics.update(values.to(torch.bfloat16), labels, torch.ones(3))
    metrics.update(values.clone().requires_grad_(), labels.bool(), torch.ones(3))
    metrics.all_reduce(OneProcess())
    expected = metrics_of(torch.cat([values, values]), torch.cat([labels, labels])).compute()
    assert metrics.compute().to_dict() == pytest.approx(expected.to_dict(), rel=1e-14)


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_cuda_device_gives_the_same_auc_as_the_cpu():
    logits, labels = sample_set(seed=5, size=200_000)
    options = {"batch": 4096, "buffer_samples": 50_000, "histogram_cells": 100_000}
    cpu = metrics_of(logits, labels, **options)
    cuda = metrics_of(logits, labels, device=torch.device("cuda"), **options)
    assert cuda.compute().auc == cpu.compute().auc
    assert torch.equal(cuda.histogram.cells_C.cpu(), cpu.histogram.cells_C)
    assert cuda.compute().log_loss == pytest.approx(cpu.compute().log_loss, rel=1e-12)


def weighted_set(seed, size=4000):
    logits, labels = sample_set(seed, size)
    weights = torch.rand(size, generator=torch.Generator().manual_seed(seed + 100)) * 4
    weights[::7] = 0
    return (logits * 8).round() / 8, labels, (weights * 2**20).round() / 2**20


def test_weighted_figures_are_those_of_scikit_learns_sample_weight_or_of_float64_by_hand():
    logits, labels, weights = weighted_set(seed=5)
    result = metrics_of(logits, labels, weights, batch=333, buffer_samples=1000, weighted=True).compute()
    y, w = labels.numpy(), weights.numpy().astype(np.float64)
    p = 1 / (1 + np.exp(-logits.numpy().astype(np.float64)))
    rate = (w * y).sum() / w.sum()
    entropy = -(rate * math.log(rate) + (1 - rate) * math.log(1 - rate))
    loss = log_loss(y, p, sample_weight=w)
    assert result.samples == np.count_nonzero(w)
    assert result.positives == int(y[w > 0].sum())
    assert result.weight == pytest.approx(w.sum(), rel=1e-12)
    assert result.auc == pytest.approx(roc_auc_score(y, logits.numpy(), sample_weight=w), abs=1e-12)
    expected = average_precision_score(y, logits.numpy(), sample_weight=w)
    assert result.average_precision == pytest.approx(expected, abs=1e-12)
    assert result.auc_error_bound == result.average_precision_error_bound == 0
    assert result.log_loss == pytest.approx(loss, rel=1e-12)
    assert result.normalised_entropy == pytest.approx(loss / entropy, rel=1e-12)
    assert result.accuracy == pytest.approx(accuracy_score(y, p > 0.5, sample_weight=w), rel=1e-12)
    assert result.calibration == pytest.approx((w * p).sum() / (w * y).sum(), rel=1e-12)
    assert result.click_rate == pytest.approx(rate, rel=1e-12)
    assert result.mean_prediction == pytest.approx((w * p).sum() / w.sum(), rel=1e-12)


def test_weights_of_any_size_change_the_auc_by_less_than_their_rounding():
    logits, labels, weights = weighted_set(seed=6)
    for factor in (1e-3, 0.1234567, 1e6):
        scaled = weights * factor
        found = metrics_of(logits, labels, scaled, weighted=True).compute()
        expected = roc_auc_score(labels.numpy(), logits.numpy(), sample_weight=scaled.double().numpy())
        assert found.auc == pytest.approx(expected, abs=1e-5 if factor < 0.1 else 1e-8)


def test_the_weighted_auc_is_the_same_to_the_bit_in_any_order_and_division():
    logits, labels, weights = weighted_set(seed=7)
    order = torch.randperm(len(logits), generator=torch.Generator().manual_seed(1))
    whole = metrics_of(logits, labels, weights, weighted=True)
    parts = metrics_of(logits[order[:900]], labels[order[:900]], weights[order[:900]], batch=10, weighted=True)
    parts.merge(metrics_of(logits[order[900:]], labels[order[900:]], weights[order[900:]], weighted=True))
    assert parts.compute().auc == whole.compute().auc
    assert parts.compute().average_precision == whole.compute().average_precision


def test_without_being_asked_samples_with_weights_count_once_and_those_of_weight_0_never():
    logits, labels, weights = weighted_set(seed=8)
    found = metrics_of(logits, labels, weights).compute()
    assert found == metrics_of(logits[weights > 0], labels[weights > 0]).compute()
    assert "weight" not in found.to_dict()


def test_weights_that_are_too_large_to_be_summed_up_are_said():
    metrics = metrics_of([0.0, 1.0], [0, 1], [1e11, 2e11], weighted=True)
    with pytest.raises(DataError, match=r"weights that sum up to 3e\+11, and 2.75e\+11 is the most"):
        metrics.compute()


def test_weights_that_the_histogram_cannot_tell_from_0_leave_their_samples_out_of_auc_and_average_precision_alone():
    logits, labels = [3.0, 2.0, 1.0, 0.0], [1.0, 0.0, 1.0, 0.0]
    found = metrics_of(logits, labels, [2.0**-25, 1.0, 0.5, 1.0], weighted=True).compute()
    assert found.average_precision == pytest.approx(
        average_precision_score(labels[1:], logits[1:], sample_weight=[1.0, 0.5, 1.0])
    )
    assert found.auc == pytest.approx(0.5)
    assert (found.samples, found.positives, found.weight) == (4, 2, 2.5 + 2.0**-25)
    none = metrics_of(logits, labels, [1e-9, 1e-9, 1e-9, 1e-9], weighted=True).compute()
    assert (none.auc, none.average_precision) == (None, None)
    assert none.log_loss == pytest.approx(log_loss(labels, 1 / (1 + np.exp(-np.array(logits)))), rel=1e-6)
    json.dumps(found.to_dict() | none.to_dict(), allow_nan=False)
