"""The random source: reproducible, uniform, unrelated to its labels, of any size."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import stats
from sklearn.metrics import roc_auc_score

from dlrm.config.data import RandomData
from dlrm.data.synthetic.noise import NoiseSource, noise_dataset
from dlrm.errors import ConfigError

MLPERF_HOTNESS = (3, 2, 1, 2, 6, 1, 1, 1, 1, 7, 3, 8, 1, 6, 9, 5, 1, 1, 1, 12, 100, 27, 10, 3, 1, 1)


def columns_of(source: NoiseSource) -> list[slice]:
    ends = np.cumsum([feature.hotness for feature in source.schema.sparse])
    return [slice(end - f.hotness, end) for end, f in zip(ends, source.schema.sparse, strict=True)]


def test_samples_have_the_shapes_and_types_of_the_protocol():
    dataset = noise_dataset(RandomData(num_dense=4, rows=(10, 20, 30), hotness=(1, 2, 3), validation_samples=7))
    samples = dataset.train.read(torch.arange(5))
    assert samples.dense_BN.shape == (5, 4)
    assert samples.ids_BS.shape == (5, 6)
    assert samples.labels_B.shape == (5,)
    assert [t.dtype for t in (samples.dense_BN, samples.ids_BS, samples.labels_B)] == [
        torch.float32,
        torch.int64,
        torch.float32,
    ]
    assert [s.num_samples for s in (dataset.train, dataset.validation, dataset.test)] == [1_048_576, 7, 0]
    assert len(dataset.train.read(torch.empty(0, dtype=torch.int64))) == 0


def test_a_sample_is_the_same_in_every_order_and_portion():
    config = RandomData(rows=(50_000,) * 26, hotness=MLPERF_HOTNESS)  # 214 ids: several internal chunks
    order = torch.randperm(2000, generator=torch.Generator().manual_seed(1))
    whole = NoiseSource(config, "train").read(order)
    parts = [NoiseSource(config, "train").read(part) for part in order.split([1, 2, 997, 577, 423])]
    assert torch.equal(torch.cat([p.ids_BS for p in parts]), whole.ids_BS)
    assert torch.equal(torch.cat([p.dense_BN for p in parts]), whole.dense_BN)
    assert torch.equal(torch.cat([p.labels_B for p in parts]), whole.labels_B)


def test_splits_seeds_and_indices_hold_different_samples():
    config = RandomData(rows=(100_000,) * 4)
    sources = [NoiseSource(config, split) for split in ("train", "validation", "test")]
    sources.append(NoiseSource(config.model_copy(update={"seed": 1}), "train"))
    rows = torch.cat([source.read(torch.arange(3000)).ids_BS for source in sources])
    assert rows.unique(dim=0).shape[0] == 12_000


def test_the_columns_of_a_feature_stand_side_by_side_and_stay_in_its_table():
    rows = (5, 70_000, 2, 300)
    source = NoiseSource(RandomData(rows=rows, hotness=(2, 3, 1, 4)), "train")
    ids = source.read(torch.arange(4000)).ids_BS
    for columns, size in zip(columns_of(source), rows, strict=True):
        assert ids[:, columns].min() == 0 or size == 70_000
        assert size // 2 <= ids[:, columns].max() < size


def test_one_hotness_is_meant_for_all_tables():
    source = NoiseSource(RandomData(rows=(10, 20, 30), hotness=(4,)), "train")
    assert [feature.hotness for feature in source.schema.sparse] == [4, 4, 4]
    assert source.read(torch.arange(2)).ids_BS.shape == (2, 12)


@pytest.mark.parametrize("rows", [1, 3, 1000])
def test_ids_are_uniform(rows):
    ids = NoiseSource(RandomData(rows=(rows,), hotness=(5,)), "train").read(torch.arange(20_000)).ids_BS
    counts = np.bincount(ids.flatten().numpy(), minlength=rows)
    assert len(counts) == rows
    if rows > 1:
        assert stats.chisquare(counts).pvalue > 1e-3


def test_the_ids_of_a_bag_are_independent():
    ids = NoiseSource(RandomData(rows=(4,), hotness=(2,)), "train").read(torch.arange(40_000)).ids_BS.numpy()
    pairs = np.bincount(ids[:, 0] * 4 + ids[:, 1], minlength=16)
    assert stats.chisquare(pairs).pvalue > 1e-3


def test_dense_values_are_uniform_below_one():
    dense = NoiseSource(RandomData(), "train").read(torch.arange(20_000)).dense_BN
    assert dense.min() >= 0
    assert dense.max() < 1
    assert stats.kstest(dense.flatten().double().numpy(), "uniform").pvalue > 1e-3


@pytest.mark.parametrize("rate", [0.5, 0.1])
def test_labels_are_coin_flips_that_nothing_predicts(rate):
    samples = NoiseSource(RandomData(click_rate=rate), "train").read(torch.arange(50_000))
    labels = samples.labels_B.numpy()
    assert set(np.unique(labels)) == {0.0, 1.0}
    assert labels.mean() == pytest.approx(rate, abs=4 * (rate * (1 - rate) / 50_000) ** 0.5)
    scores = np.concatenate([samples.dense_BN.numpy().T, samples.ids_BS.numpy().T])
    aucs = [roc_auc_score(labels, score) for score in scores]
    assert np.abs(np.array(aucs) - 0.5).max() < 4 * (1 / (12 * 50_000 * rate * (1 - rate))) ** 0.5
    assert abs(np.corrcoef(labels[1:], labels[:-1])[0, 1]) < 4 / 50_000**0.5


def test_tables_of_forty_million_rows_and_billions_of_samples_need_no_memory():
    config = RandomData(rows=(40_000_000, 2**31 - 1), train_samples=4_195_197_692)
    samples = NoiseSource(config, "train").read(torch.arange(4_195_197_692 - 5000, 4_195_197_692))
    ids = samples.ids_BS
    assert ids.min() >= 0
    assert 39_000_000 < ids[:, 0].max() < 40_000_000
    assert 2_140_000_000 < ids[:, 1].max() < 2**31 - 1
    assert ids[:, 0].unique().numel() > 4990
    assert abs(ids[:, 0].double().mean().item() / 40_000_000 - 0.5) < 0.02


def test_a_table_beyond_the_range_of_the_draws_is_refused():
    with pytest.raises(ConfigError, match=r"data\.rows: table 1 has 2147483648 rows"):
        NoiseSource(RandomData(rows=(5, 2**31)), "train")
