import dataclasses

import pytest
import torch
from torchrec.modules.embedding_configs import EmbeddingBagConfig
from torchrec.modules.embedding_modules import EmbeddingBagCollection
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from dlrm.data.batch import Batch, make_batch
from dlrm.data.source import Samples
from dlrm.schema import Schema

ONE_HOT = Schema.numbered(2, rows=[10, 20, 30])
MULTI_HOT = Schema.numbered(2, rows=[10, 20, 30], hotness=[2, 1, 4])


def some_samples(schema, count):
    generator = torch.Generator().manual_seed(count)
    ids = [torch.randint(0, f.rows, (count, f.hotness), generator=generator) for f in schema.sparse]
    return Samples(
        dense_BN=torch.randn(count, len(schema.dense), generator=generator),
        ids_BS=torch.cat(ids, dim=1),
        labels_BT=torch.randint(0, 2, (count, 1), generator=generator).float(),
    )


def batch_of(schema, count, size, **kwargs):
    return make_batch(some_samples(schema, count), schema, size=size, **{"global_samples": 7, "world_size": 1} | kwargs)


@pytest.mark.parametrize("schema", [ONE_HOT, MULTI_HOT], ids=["one-hot", "multi-hot"])
@pytest.mark.parametrize(("count", "size"), [(4, 4), (4, 6), (1, 1), (0, 2)])
def test_each_bag_holds_the_ids_of_its_sample_and_feature_and_padding_is_empty(schema, count, size):
    samples, sparse = some_samples(schema, count), batch_of(schema, count, size).sparse
    assert sparse.keys() == ["cat_0", "cat_1", "cat_2"]
    assert sparse.stride() == size
    start = 0
    for feature in schema.sparse:
        bags = sparse[feature.name].to_dense()
        expected = samples.ids_BS[:, start : start + feature.hotness]
        assert [bag.tolist() for bag in bags] == expected.tolist() + [[]] * (size - count)
        start += feature.hotness
    assert sparse.values().dtype == torch.int32


def with_lengths(samples, schema, *, seed=0):
    """The same samples with bags of random lengths, some of them empty, and 0 beyond."""
    hotness = torch.tensor([f.hotness for f in schema.sparse])
    random = torch.rand(len(samples), len(hotness), generator=torch.Generator().manual_seed(seed))
    lengths = (random * (hotness + 1)).int()
    place = torch.cat([torch.arange(h) for h in hotness.tolist()])
    kept = place < lengths.repeat_interleave(hotness, dim=1)
    return dataclasses.replace(samples, ids_BS=samples.ids_BS * kept, lengths_BF=lengths)


@pytest.mark.parametrize("schema", [ONE_HOT, MULTI_HOT], ids=["one-hot", "multi-hot"])
@pytest.mark.parametrize(("count", "size"), [(5, 5), (5, 7), (1, 1), (0, 2)])
def test_bags_of_other_lengths_hold_their_ids_and_nothing_of_what_lies_beyond(schema, count, size):
    samples = with_lengths(some_samples(schema, count), schema)
    sparse = make_batch(samples, schema, size=size, global_samples=7, world_size=1).sparse
    start = 0
    for i, feature in enumerate(schema.sparse):
        bags = [bag.tolist() for bag in sparse[feature.name].to_dense()]
        ids = samples.ids_BS[:, start : start + feature.hotness].tolist()
        kept = zip(ids, samples.lengths_BF[:, i].tolist(), strict=True)
        assert bags == [row[:length] for row, length in kept] + [[]] * (size - count)
        start += feature.hotness
    assert (sparse.values().dtype, sparse.lengths().dtype) == (torch.int32, torch.int32)
    assert len(sparse.values()) == samples.lengths_BF.sum()


@pytest.mark.parametrize("hotness", [[1, 1], [2, 1]])
@pytest.mark.parametrize("ragged", [False, True])
@pytest.mark.parametrize(("rows", "dtype"), [(2**31 - 1, torch.int32), (2**31, torch.int64)])
def test_ids_are_as_wide_as_the_largest_table_needs_on_every_rank(rows, dtype, ragged, hotness):
    schema = Schema.numbered(2, rows=[rows, 3], hotness=hotness)
    ids_BS = torch.tensor([[rows - 1, 1, 2][: sum(hotness)], [0, 2, 1][: sum(hotness)]])
    ids_BS[:, -1] %= 3
    samples = Samples(torch.zeros(2, 2), ids_BS, torch.zeros(2, 1))
    samples = dataclasses.replace(samples, lengths_BF=torch.tensor([hotness] * 2).int()) if ragged else samples
    values = make_batch(samples, schema, size=3, global_samples=2, world_size=1).sparse.values()
    assert values.dtype == dtype
    assert values.tolist() == [*ids_BS[:, : hotness[0]].flatten().tolist(), *ids_BS[:, -1].tolist()]
    nothing = Samples(torch.zeros(0, 2), ids_BS[:0], torch.zeros(0, 1))
    assert make_batch(nothing, schema, size=3, global_samples=2, world_size=1).sparse.values().dtype == dtype


@pytest.mark.parametrize("schema", [ONE_HOT, MULTI_HOT], ids=["one-hot", "multi-hot"])
@pytest.mark.parametrize("count", [4, 5000])
def test_ids_of_either_width_and_in_either_memory_order_give_the_same_batch(schema, count):
    samples = some_samples(schema, count)
    batch = make_batch(samples, schema, size=count, global_samples=7, world_size=1)
    for ids_BS in (
        samples.ids_BS.int(),
        samples.ids_BS.t().contiguous().t(),
        samples.ids_BS.int().t().contiguous().t(),
    ):
        other = dataclasses.replace(samples, ids_BS=ids_BS)
        assert same(make_batch(other, schema, size=count, global_samples=7, world_size=1), batch)


@pytest.mark.parametrize("schema", [ONE_HOT, MULTI_HOT], ids=["one-hot", "multi-hot"])
@pytest.mark.parametrize("ragged", [False, True])
@pytest.mark.parametrize(("count", "size"), [(5, 5), (5, 7), (0, 2)])
def test_what_torchrec_is_told_of_the_keys_is_what_it_would_compute(schema, ragged, count, size):
    samples = some_samples(schema, count)
    samples = with_lengths(samples, schema) if ragged else samples
    told = make_batch(samples, schema, size=size, global_samples=7, world_size=1).sparse
    asked = KeyedJaggedTensor(told.keys(), told.values(), lengths=told.lengths(), stride=size)
    assert told.length_per_key_or_none() == asked.length_per_key()
    assert told.offset_per_key() == asked.offset_per_key()


def test_samples_that_are_skipped_have_weight_0_at_their_place():
    samples = dataclasses.replace(some_samples(ONE_HOT, 3), weights_B=torch.tensor([1.0, 0.0, 1.0]))
    batch = make_batch(samples, ONE_HOT, size=5, global_samples=5, world_size=2)
    assert batch.weights.tolist() == [[1], [0], [1], [0], [0]]
    assert batch.loss_scale.item() == pytest.approx(2 / 5)


@pytest.mark.parametrize("schema", [ONE_HOT, MULTI_HOT], ids=["one-hot", "multi-hot"])
def test_torchrec_pools_what_a_loop_over_samples_would(schema):
    configs = [
        EmbeddingBagConfig(name=f.name, feature_names=[f.name], num_embeddings=f.rows, embedding_dim=4)
        for f in schema.sparse
    ]
    tables = EmbeddingBagCollection(tables=configs)
    samples, pooled = some_samples(schema, 5), tables(batch_of(schema, 5, 7).sparse).to_dict()
    start = 0
    for feature in schema.sparse:
        weight = tables.embedding_bags[feature.name].weight
        for b in range(5):
            ids = samples.ids_BS[b, start : start + feature.hotness]
            torch.testing.assert_close(pooled[feature.name][b], sum(weight[i] for i in ids), rtol=1e-6, atol=0)
        assert pooled[feature.name][5:].eq(0).all()
        start += feature.hotness


def test_dense_values_labels_and_weights_are_padded_with_zeros():
    samples, batch = some_samples(ONE_HOT, 3), batch_of(ONE_HOT, 3, 5)
    assert torch.equal(batch.dense, torch.cat([samples.dense_BN, torch.zeros(2, 2)]))
    assert torch.equal(batch.labels, torch.cat([samples.labels_BT, torch.zeros(2, 1)]))
    assert batch.weights.tolist() == [[1], [1], [1], [0], [0]]
    assert {batch.dense.dtype, batch.labels.dtype, batch.weights.dtype, batch.loss_scale.dtype} == {torch.float32}


@pytest.mark.parametrize("shares", [(4, 4), (4, 3), (1, 0), (2, 2, 2, 1)])
def test_the_mean_over_ranks_of_scaled_sums_is_the_mean_over_samples(shares):
    losses = torch.rand(sum(shares), dtype=torch.float64)
    scaled = []
    for part in losses.split(list(shares)):
        batch = batch_of(ONE_HOT, len(part), max(shares), global_samples=sum(shares), world_size=len(shares))
        padded = torch.full((max(shares),), 123.0, dtype=torch.float64)  # what a model makes of padding does not count
        padded[: len(part)] = part
        scaled.append(batch.loss_scale.double() * (batch.weights[:, 0] * padded).sum())
    assert torch.stack(scaled).mean().item() == pytest.approx(losses.mean().item(), rel=1e-6)


def same(one: Batch, other: Batch) -> bool:
    tensors = ("dense", "labels", "weights", "loss_scale")
    return (
        all(torch.equal(getattr(one, name), getattr(other, name)) for name in tensors)
        and one.sparse.keys() == other.sparse.keys()
        and torch.equal(one.sparse.values(), other.sparse.values())
        and torch.equal(one.sparse.lengths(), other.sparse.lengths())
        and one.sparse.stride() == other.sparse.stride()
    )


def test_a_batch_moves_whole():
    batch = batch_of(MULTI_HOT, 3, 5)
    assert same(batch.to(torch.device("cpu")), batch)
    elsewhere = batch.to(torch.device("meta"), non_blocking=True)
    assert elsewhere.sparse.values().shape == batch.sparse.values().shape
    parts = (elsewhere.dense, elsewhere.sparse, elsewhere.labels, elsewhere.weights, elsewhere.loss_scale)
    assert {part.device.type if isinstance(part, torch.Tensor) else part.device().type for part in parts} == {"meta"}


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("schema", [ONE_HOT, MULTI_HOT], ids=["one-hot", "multi-hot"])
@pytest.mark.parametrize("ragged", [False, True])
def test_pinned_memory_holds_the_same_batch(schema, ragged):
    samples = some_samples(schema, 3)
    samples = with_lengths(samples, schema) if ragged else samples
    batch = make_batch(samples, schema, size=5, global_samples=7, world_size=1)
    pinned = make_batch(samples, schema, size=5, global_samples=7, world_size=1, pin_memory=True)
    tensors = (pinned.dense, pinned.labels, pinned.weights, pinned.loss_scale)
    assert all(tensor.is_pinned() for tensor in (*tensors, pinned.sparse.values(), pinned.sparse.lengths()))
    assert same(pinned, batch)
    assert same(pinned.to(torch.device("cuda"), non_blocking=True).to(torch.device("cpu")), batch)


def test_a_device_keeps_the_lengths_and_weights_that_all_full_batches_share():
    device = torch.device("meta")
    full, other, last = (batch_of(MULTI_HOT, count, 4) for count in (4, 4, 3))
    there = [batch.to(device) for batch in (full, other, last)]
    assert there[0].sparse.lengths() is there[1].sparse.lengths()
    assert there[0].weights is there[1].weights
    assert there[0].sparse.values() is not there[1].sparse.values()
    assert last.to(torch.device("cpu")).weights.tolist() == [[1], [1], [1], [0]]
    assert there[2].sparse.lengths() is not there[0].sparse.lengths()
    assert all(tensor.is_meta for batch in there for tensor in (batch.dense, batch.weights, batch.sparse.lengths()))


def test_lengths_and_weights_of_a_batch_s_own_are_copied_with_it():
    samples = with_lengths(some_samples(MULTI_HOT, 4), MULTI_HOT)
    samples = dataclasses.replace(samples, weights_B=torch.tensor([1.0, 0.0, 1.0, 1.0]))
    batches = [make_batch(samples, MULTI_HOT, size=4, global_samples=4, world_size=1) for _ in range(2)]
    here, other = (batch.to(torch.device("cpu")) for batch in batches)
    assert here.weights is not other.weights
    assert here.sparse.lengths() is not other.sparse.lengths()
    assert here.weights.tolist() == [[1], [0], [1], [1]]
    assert same(here, batches[0])
    there = [batch.to(torch.device("meta")) for batch in batches[:1] * 2]
    assert there[0].weights is not there[1].weights
    assert there[0].sparse.lengths() is not there[1].sparse.lengths()
