import numpy as np
import pytest
import torch

from dlrm.data.batch import make_batch
from dlrm.data.source import Samples
from dlrm.distributed.collectives import OneProcess
from dlrm.errors import ConfigError
from dlrm.inference.evaluate import slicing as slicing_module
from dlrm.inference.evaluate.columns import find_columns
from dlrm.inference.evaluate.slicing import find_slicings
from dlrm.schema import Schema, SparseFeature

SCHEMA = Schema(("price", "age"), (SparseFeature("item", 50), SparseFeature("words", 9, hotness=3)), ("click", "like"))
NAN = float("nan")


def samples_of(count, seed=0):
    """Ragged bags, prices that are often equal, missing labels of the second task, and some samples that are skipped."""
    rng = np.random.default_rng(seed)
    lengths = np.stack([np.ones(count), rng.integers(0, 4, count)], 1).astype(np.int32)
    words = rng.integers(0, 9, (count, 3)) * (np.arange(3) < lengths[:, 1:])
    item = np.minimum(rng.geometric(0.15, count) - 1, 49)
    labels = rng.integers(0, 2, (count, 2)).astype(np.float32)
    labels[rng.random(count) < 0.3, 1] = NAN
    dense = np.stack([np.round(np.maximum(0, rng.standard_normal(count)), 1), rng.standard_normal(count)], 1)
    weights = (rng.random(count) > 0.1).astype(np.float32)
    arrays = dense.astype(np.float32), np.concatenate([item[:, None], words], 1), labels, lengths, weights
    return Samples(*map(torch.from_numpy, arrays))


def batches_of(samples, size=64, schema=SCHEMA):
    """In pieces, the last of them padded."""
    for start in range(0, len(samples), size):
        fields = ("dense_BN", "ids_BS", "labels_BT", "lengths_BF", "weights_B")
        part = Samples(*(getattr(samples, field)[start : start + size] for field in fields))
        yield make_batch(part, schema, size=size, global_samples=size, world_size=1)


def sliced(samples, column, *, values=4, buckets=5):
    """The labels of the slices, and each sample's number; -1 for those that are not scored."""
    columns = find_columns((column,), SCHEMA)
    (slicing,) = find_slicings(columns, batches_of(samples), OneProcess(), values=values, buckets=buckets)
    numbers = torch.cat([slicing.slice_of(batch) for batch in batches_of(samples)])[: len(samples)]
    assert int(numbers.max()) < len(slicing.labels)
    return slicing.labels, torch.where(samples.weights_B > 0, numbers, -1).numpy()


def most_frequent(values, kept, count):
    found, counts = np.unique(values[kept], return_counts=True)
    order = sorted(zip(-counts, found, strict=True))
    return [value for _, value in order[:count]], max(0, len(order) - count)


@pytest.mark.parametrize(("column", "place", "absent"), [("item", 0, "none"), ("words", 1, "none")])
def test_ids_are_sliced_by_their_most_frequent_values_and_the_first_of_a_bag_counts(column, place, absent):
    samples = samples_of(1000)
    first = samples.ids_BS[:, place].numpy()
    first = np.where(samples.lengths_BF[:, place].numpy() > 0, first, -1)
    kept = samples.weights_B.numpy() > 0
    frequent, others = most_frequent(first, kept, 4)
    labels, numbers = sliced(samples, column)
    assert labels == (*(absent if value == -1 else str(value) for value in frequent), f"{others} others")
    expected = [frequent.index(value) if value in frequent else 4 for value in first]
    assert np.array_equal(numbers, np.where(kept, expected, -1))


class OtherRanks(OneProcess):
    """Rank 0 of two, of which the other has counted these values, each once; it keeps what rank 0 sends it."""

    world_size = 2

    def __init__(self, values):
        self.values, self.kept, self.calls = values, None, 0

    def all_gather_object(self, value):
        self.calls += 1
        if self.calls == 1:
            return [value, [int((self.values % 2 == rank).sum()) for rank in (0, 1)]]
        whole = torch.cat([self.kept, self.pairs(1)])
        found = whole[:, 0].unique()
        counts = torch.stack([whole[whole[:, 0] == one, 1].sum() for one in found])
        order = counts.argsort(descending=True, stable=True)[:4]
        return [value, (len(found), torch.stack([found, counts], 1)[order].tolist())]

    def all_to_all(self, tensor, sent, received):
        mine, self.kept = tensor.split(sent)
        assert (mine[:, 0] % 2 == 0).all()
        assert (self.kept[:, 0] % 2 == 1).all()
        theirs = self.pairs(0)
        assert received == [len(mine), len(theirs)]
        return torch.cat([mine, theirs])

    def pairs(self, rank):
        values = self.values[self.values % 2 == rank]
        return torch.stack([values, torch.ones_like(values)], 1)


@pytest.mark.parametrize("merged_at_once", [1, 1 << 16])
def test_ids_without_bounds_are_counted_where_they_occur_alone(monkeypatch, merged_at_once):
    monkeypatch.setattr(slicing_module, "_MERGED_AT_ONCE", merged_at_once)
    schema = Schema(SCHEMA.dense, (SparseFeature("item", 2**63 - 1), SCHEMA.sparse[1]), SCHEMA.tasks)
    samples = samples_of(1000)
    samples.ids_BS[:, 0] += (samples.ids_BS[:, 0] > 3) * (2**62)
    item, kept = samples.ids_BS[:, 0].numpy(), samples.weights_B.numpy() > 0
    columns, batches = find_columns(("item",), schema), list(batches_of(samples, schema=schema))
    (slicing,) = find_slicings(columns, batches, OneProcess(), values=4, buckets=5)
    frequent, others = most_frequent(item, kept, 4)
    assert slicing.labels == (*map(str, frequent), f"{others} others")
    numbers = torch.cat([slicing.slice_of(batch) for batch in batches])[: len(samples)].numpy()
    expected = np.array([frequent.index(value) if value in frequent else 4 for value in item])
    assert np.array_equal(numbers[kept], expected[kept])

    elsewhere = torch.tensor([7, 9, 2**62 + 1, 2**62 + 2] + [2**61] * 600 + [2**61 + 1] * 500)
    (slicing,) = find_slicings(columns, batches, OtherRanks(elsewhere), values=4, buckets=5)
    together = np.concatenate([item[kept], elsewhere.numpy()])
    frequent, others = most_frequent(together, np.ones(len(together), bool), 4)
    assert slicing.labels == (*map(str, frequent), f"{others} others")


def test_bags_are_sliced_by_their_length_where_that_is_asked_for():
    samples = samples_of(500)
    labels, numbers = sliced(samples, "words:length")
    kept = samples.weights_B.numpy() > 0
    lengths = samples.lengths_BF[:, 1].numpy()
    frequent, others = most_frequent(lengths, kept, 4)
    assert (others, labels) == (0, tuple(map(str, frequent)))
    assert np.array_equal(numbers, np.where(kept, [frequent.index(length) for length in lengths], -1))


def test_samples_are_sliced_by_the_label_of_a_task_which_may_be_missing():
    samples = samples_of(500)
    labels, numbers = sliced(samples, "like")
    like = samples.labels_BT[:, 1].numpy()
    named = np.where(np.isnan(like), "missing", np.where(like == 1, "1", "0"))
    kept = samples.weights_B.numpy() > 0
    assert set(labels) == {"0", "1", "missing"}
    assert np.array_equal(np.array(labels)[numbers[kept]], named[kept])


@pytest.mark.parametrize("buckets", [1, 2, 7, 400])
@pytest.mark.parametrize("column", SCHEMA.dense)
def test_numbers_are_sliced_at_numpy_s_quantiles_and_equal_values_stay_together(column, buckets):
    samples = samples_of(700)
    values = samples.dense_BN[:, SCHEMA.dense.index(column)].numpy()
    kept = samples.weights_B.numpy() > 0
    ordered = np.sort(values[kept])
    edges = np.unique(np.quantile(ordered, [j / buckets for j in range(1, buckets)], method="inverted_cdf"))
    edges = edges[edges < ordered[-1]]
    labels, numbers = sliced(samples, column, buckets=buckets)
    assert len(labels) == len(edges) + 1
    assert np.array_equal(numbers, np.where(kept, (values[:, None] > edges).sum(1), -1))
    assert set(numbers[kept]) == set(range(len(labels)))  # none is empty


def test_where_every_sample_is_skipped_there_is_one_slice_that_stays_empty():
    samples = samples_of(100)
    samples.weights_B.zero_()
    for column in ("item", "price", "like"):
        labels, numbers = sliced(samples, column)
        assert len(labels) == 1
        assert (numbers == -1).all()


def test_a_column_that_is_not_there_is_told_with_the_nearest():
    with pytest.raises(ConfigError, match=r"slices: the data have no column itm; did you mean item\?"):
        find_columns(("age", "itm"), SCHEMA)
    with pytest.raises(ConfigError, match=r"slices: the data have no column price:length"):
        find_columns(("price:length",), SCHEMA)
