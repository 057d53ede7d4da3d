"""The random source: reproducible, of the configured distributions, unrelated to its labels, of any size."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import stats
from sklearn.metrics import roc_auc_score

from dlrm.config.data import RandomData
from dlrm.counter_rng import random_bits, stream_key
from dlrm.data.synthetic.lru_stack import stack_distances
from dlrm.data.synthetic.noise import NoiseSource, noise_dataset
from dlrm.data.synthetic.trace import TraceStream
from dlrm.data.synthetic.trace_profile import TraceProfile, profile_column, read_profile, write_profile
from dlrm.errors import ConfigError, DataError
from tests.unit.data.synthetic.id_streams import drifting_stream, ks_distance, zipf_stream

MLPERF_HOTNESS = (3, 2, 1, 2, 6, 1, 1, 1, 1, 7, 3, 8, 1, 6, 9, 5, 1, 1, 1, 12, 100, 27, 10, 3, 1, 1)


def columns_of(source: NoiseSource) -> list[slice]:
    ends = np.cumsum([feature.hotness for feature in source.schema.sparse])
    return [slice(end - f.hotness, end) for end, f in zip(ends, source.schema.sparse, strict=True)]


def test_samples_have_the_shapes_and_types_of_the_protocol():
    dataset = noise_dataset(RandomData(num_dense=4, rows=(10, 20, 30), hotness=(1, 2, 3), validation_samples=7))
    samples = dataset.train.read(torch.arange(5))
    assert samples.dense_BN.shape == (5, 4)
    assert samples.ids_BS.shape == (5, 6)
    assert samples.labels_BT.shape == (5, 1)
    assert [t.dtype for t in (samples.dense_BN, samples.ids_BS, samples.labels_BT[:, 0])] == [
        torch.float32,
        torch.int64,
        torch.float32,
    ]
    assert [s.num_samples for s in (dataset.train, dataset.validation, dataset.test)] == [1_048_576, 7, 0]
    assert len(dataset.train.read(torch.empty(0, dtype=torch.int64))) == 0


@pytest.fixture(scope="module")
def profile(tmp_path_factory) -> str:
    """A trace profile of two columns."""
    path = str(tmp_path_factory.mktemp("profile") / "profile.json")
    streams = {"a": zipf_stream(30_000, 5000, 1.1), "b": drifting_stream(30_000)}
    write_profile(TraceProfile(tuple(profile_column(name, 20_000, ids) for name, ids in streams.items())), path)
    return path


@pytest.fixture
def trace(profile):
    return {"kind": "trace", "path": profile}


def test_uniform_samples_are_made_of_the_lanes_of_counters():
    # Written out by hand, so that a stream once used stays the same.
    config = RandomData(num_dense=2, rows=(10, 1000), hotness=(1, 2), seed=7)  # 3 ids and 2 dense values: 5 lanes
    samples = NoiseSource(config, "test").read(torch.tensor([4]))
    counters = torch.arange(12, 15)
    words = random_bits(stream_key(7, "noise", "test", "features"), counters).numpy().view(np.int32).astype(np.int64)
    unsigned = words + 2**31
    assert samples.ids_BS.tolist() == [
        [int(u) * rows >> 32 for u, rows in zip(unsigned, (10, 1000, 1000), strict=False)]
    ]
    assert samples.dense_BN.tolist() == [[int(u >> 8) / 2**24 for u in unsigned[3:5]]]


@pytest.mark.parametrize("kind", ["uniform", "zipf", "trace"])
@pytest.mark.parametrize("random_hotness", [False, True])
def test_a_sample_is_the_same_in_every_order_and_portion(kind, random_hotness, profile):
    config = RandomData(
        train_samples=2000,
        rows=(50_000,) * 26,
        hotness=MLPERF_HOTNESS,  # 214 ids: several internal chunks
        random_hotness=random_hotness,
        dense="normal" if random_hotness else "uniform",
        ids={"kind": kind, "path": profile} if kind == "trace" else {"kind": kind},
    )
    order = torch.randperm(2000, generator=torch.Generator().manual_seed(1))
    whole = NoiseSource(config, "train").read(order)
    other = NoiseSource(config, "train")  # as another rank has it
    parts = [other.read(part) for part in order.split([1, 2, 997, 577, 423])]
    assert torch.equal(torch.cat([p.ids_BS for p in parts]), whole.ids_BS)
    assert torch.equal(torch.cat([p.dense_BN for p in parts]), whole.dense_BN)
    assert torch.equal(torch.cat([p.labels_BT[:, 0] for p in parts]), whole.labels_BT[:, 0])
    if random_hotness:
        assert torch.equal(torch.cat([p.lengths_BF for p in parts]), whole.lengths_BF)
    else:
        assert whole.lengths_BF is None


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
    labels = samples.labels_BT[:, 0].numpy()
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


def test_dense_values_are_standard_normal():
    dense = NoiseSource(RandomData(dense="normal"), "train").read(torch.arange(20_000)).dense_BN
    assert dense.dtype == torch.float32
    assert dense.isfinite().all()
    assert stats.kstest(dense.flatten().double().numpy(), "norm").pvalue > 1e-3
    assert dense.abs().max() > 4.2  # of 260,000


def test_the_tails_of_normal_values_are_finite():
    source = NoiseSource(RandomData(num_dense=512, rows=(3,), dense="normal"), "train")
    extremes = torch.cat([source.dense(torch.arange(start, start + 4000)).flatten() for start in (0, 10**12)])
    assert 4.5 < extremes.abs().max() < 6.3


def test_zipf_ids_follow_their_law():
    config = RandomData(rows=(3, 60_000, 2**31 - 1), hotness=(1, 2, 1), ids={"kind": "zipf", "exponent": 1.2})
    ids = NoiseSource(config, "train").read(torch.arange(60_000)).ids_BS.numpy()
    for column, rows in ((0, 3), (1, 60_000), (2, 60_000)):
        expected = np.arange(1, rows + 1, dtype=np.float64) ** -1.2
        expected *= 60_000 / expected.sum()
        counts = np.bincount(ids[:, column], minlength=rows)
        common = expected >= 5
        observed, wanted = (np.append(c[common], c[~common].sum()) for c in (counts, expected))
        assert stats.chisquare(observed[wanted > 0], wanted[wanted > 0]).pvalue > 1e-3
    assert 2**27 < ids[:, 3].max() < 2**31 - 1
    assert abs(np.corrcoef(np.log1p(ids[:, 1]), np.log1p(ids[:, 2]))[0, 1]) < 4 / 60_000**0.5


def test_random_lengths_of_bags_are_uniform_and_nothing_lies_beyond():
    source = NoiseSource(RandomData(rows=(90, 80, 70), hotness=(4, 1, 9), random_hotness=True), "train")
    samples = source.read(torch.arange(30_000))
    assert samples.lengths_BF.dtype == torch.int32
    assert samples.lengths_BF.shape == (30_000, 3)
    for columns, lengths, hot in zip(columns_of(source), samples.lengths_BF.T, (4, 1, 9), strict=True):
        counts = np.bincount(lengths.numpy(), minlength=hot + 1)
        assert counts[0] == 0
        assert len(counts) == hot + 1
        assert hot == 1 or stats.chisquare(counts[1:]).pvalue > 1e-3
        inside = torch.arange(hot) < lengths[:, None]
        ids = samples.ids_BS[:, columns]
        assert (ids[~inside] == 0).all()
        assert (ids[inside] > 0).float().mean() > 0.97
    assert abs(np.corrcoef(samples.lengths_BF[:, 0], samples.lengths_BF[:, 2])[0, 1]) < 4 / 30_000**0.5


def test_random_hotness_leaves_the_other_numbers_as_they_are():
    fixed = NoiseSource(RandomData(rows=(90, 80), hotness=(4, 2)), "train").read(torch.arange(500))
    random = NoiseSource(RandomData(rows=(90, 80), hotness=(4, 2), random_hotness=True), "train").read(
        torch.arange(500)
    )
    inside = torch.cat([torch.arange(hot) < random.lengths_BF[:, [f]] for f, hot in enumerate((4, 2))], dim=1)
    assert torch.equal(torch.where(inside, fixed.ids_BS, 0), random.ids_BS)
    assert torch.equal(fixed.dense_BN, random.dense_BN)


def test_trace_ids_are_one_stream_through_bags_and_splits(trace, profile):
    sizes = {"train_samples": 3000, "validation_samples": 20, "test_samples": 400}
    data = noise_dataset(RandomData(rows=(900, 800, 700), hotness=(1, 4, 2), ids=trace, seed=2, **sizes))
    samples = [split.read(torch.arange(split.num_samples)) for split in (data.train, data.validation, data.test)]
    ids = torch.cat([part.ids_BS for part in samples])
    columns = read_profile(profile).columns
    for table, (place, rows) in enumerate(zip(columns_of(data.train), (900, 800, 700), strict=True)):
        stream = TraceStream(columns[table % 2], rows=rows, seed=2, table=table)  # columns in turn
        assert np.array_equal(ids[:, place].flatten().numpy(), stream.take(ids[:, place].numel()))


def test_random_bags_of_a_trace_take_one_reference_after_the_other(trace):
    sizes = {"train_samples": 70_000, "test_samples": 50, "rows": (20_000, 20_000), "hotness": (3, 1)}
    data = noise_dataset(RandomData(**sizes, random_hotness=True, ids=trace))
    samples = [split.read(torch.arange(split.num_samples)) for split in (data.train, data.test)]
    lengths = torch.cat([part.lengths_BF for part in samples])
    inside = torch.arange(3) < lengths[:, :1]
    references = torch.cat([part.ids_BS for part in samples])[:, :3][inside].numpy()
    fixed = noise_dataset(RandomData(train_samples=len(references), rows=(20_000,), ids=trace)).train
    assert np.array_equal(references, fixed.read(torch.arange(len(references))).ids_BS[:, 0])


def test_trace_ids_repeat_as_in_the_recorded_stream(trace):
    source = NoiseSource(RandomData(train_samples=30_000, rows=(20_000, 20_000), ids=trace), "train")
    ids = source.read(torch.arange(30_000)).ids_BS.numpy()
    for column, original in zip(ids.T, (zipf_stream(30_000, 5000, 1.1), drifting_stream(30_000)), strict=True):
        assert ks_distance(stack_distances(column), stack_distances(original)) <= 0.02


def test_empty_splits_of_a_trace_can_be_read(trace):
    data = noise_dataset(RandomData(train_samples=5, rows=(7,), ids=trace))
    assert data.test.read(torch.empty(0, dtype=torch.int64)).ids_BS.shape == (0, 1)


def test_a_trace_without_a_profile_is_refused():
    with pytest.raises(DataError, match=r"nowhere\.json: cannot be read"):
        noise_dataset(RandomData(ids={"kind": "trace", "path": "nowhere.json"}))
