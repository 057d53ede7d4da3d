"""torchrec: from the model to the kernels; fbgemm: the kernels."""

from __future__ import annotations

import inspect

import pytest
import torch
from fbgemm_gpu.split_embedding_configs import EmbOptimType
from fbgemm_gpu.split_table_batched_embeddings_ops_common import EmbeddingLocation, PoolingMode
from fbgemm_gpu.split_table_batched_embeddings_ops_training import (
    ComputeDevice,
    DenseTableBatchedEmbeddingBagsCodegen,
    SplitTableBatchedEmbeddingBagsCodegen,
)
from torch import nn
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from dlrm.data.loader import BatchLoader
from dlrm.data.order import SampleOrder
from dlrm.distributed.internals import (
    ShardedTensor,
    caches_rows,
    fused_lookups,
    kernels_of,
    kernels_of_optimizer,
    set_trained_steps,
)
from dlrm.sharding.unpooled_on_cpu import rows_of
from dlrm.sharding.wrap import forget_cached_rows
from dlrm.train.engine import Engine
from tests.support.training import ROWS, tiny_dataset
from tests.unit.contracts.hooks import hook

INTERNALS = "dlrm/distributed/internals.py"
LOOKUPS = "class GroupedPooledEmbeddingsLookup in torchrec/distributed/embedding_lookup.py"
TBE = "class SplitTableBatchedEmbeddingBagsCodegen in fbgemm_gpu/split_table_batched_embeddings_ops_training.py"


def kernels(engine: Engine) -> list[tuple[object, SplitTableBatchedEmbeddingBagsCodegen]]:
    return [pair for lookup in fused_lookups(engine.model) for pair in kernels_of(lookup)]


def train_a_step(engine: Engine) -> None:
    order = SampleOrder(10, global_batch_size=10, seed=0, shuffle=False)
    loader = BatchLoader(tiny_dataset(10).train, order, rank=0, world_size=1)
    assert len(list(engine.stepper.train(loader.batches(0, 0, 1), first_step=1))) == 1


@hook("_lookups", "_emb_modules", "grouped_configs", "emb_module", of="torchrec", used_in=INTERNALS, see=LOOKUPS)
def test_lookups_hold_every_sharded_table_in_the_order_of_their_configurations(engine: Engine) -> None:
    parts = {}
    for config, kernel in kernels(engine):
        assert isinstance(kernel, SplitTableBatchedEmbeddingBagsCodegen)
        for table, weight_RD in zip(config.embedding_tables, kernel.split_embedding_weights(), strict=True):
            shard = table.local_metadata
            assert tuple(weight_RD.shape) == (table.local_rows, table.local_cols) == tuple(shard.shard_sizes)
            parts[table.name] = (tuple(weight_RD.shape), table.embedding_dim, tuple(shard.shard_offsets))
    assert parts == {f"cat_{i}": ((ROWS[i], 16), 16, (0, 0)) for i in (1, 2, 3)}


@hook("grouped_configs", of="torchrec", used_in="dlrm/sharding/dirty_rows.py, column_shards.py", see=LOOKUPS)
def test_a_lookup_is_called_with_the_ids_of_its_tables_in_their_order_and_hooks_may_replace_its_output(
    engine: Engine,
) -> None:
    (lookup,) = fused_lookups(engine.model)
    seen: list[tuple[list[str], list[int], tuple[int, ...]]] = []

    def watch(_: nn.Module, inputs: tuple[KeyedJaggedTensor], pooled_BX: torch.Tensor) -> torch.Tensor:
        (ids,) = inputs
        seen.append((ids.keys(), ids.offset_per_key(), tuple(pooled_BX.shape)))
        return pooled_BX.clone()

    with lookup.register_forward_hook(watch):
        train_a_step(engine)
    tables = [table.name for config, _ in kernels_of(lookup) for table in config.embedding_tables]
    assert seen == [(tables, [0, 10, 20, 30], (10, 3 * 16))]


@hook("_shard", of="torch", used_in=f"{INTERNALS} and who imports ShardedTensor there", see="torchrec's state_dict")
def test_the_state_of_a_sharded_table_is_a_sharded_tensor_over_the_kernel_s_memory(engine: Engine) -> None:
    state = {name: weight for name, weight in engine.model.state_dict().items() if ".embedding_bags." in name}
    assert {name.split(".")[-2]: isinstance(weight, ShardedTensor) for name, weight in state.items()} == {
        "cat_0": False, "cat_1": True, "cat_2": True, "cat_3": True,
    }  # fmt: skip
    memory = {weight.data_ptr() for _, kernel in kernels(engine) for weight in kernel.split_embedding_weights()}
    for weight in state.values():
        if isinstance(weight, ShardedTensor):
            (shard,) = weight.local_shards()
            assert shard.tensor.data_ptr() in memory
            assert tuple(shard.metadata.shard_offsets) == (0, 0)
            assert weight.metadata().tensor_properties.dtype == torch.float32
            assert tuple(weight.metadata().size) == tuple(shard.tensor.shape)


@hook("_emb_module", of="torchrec", used_in=INTERNALS, see="EmbeddingFusedOptimizer in batched_embedding_kernel.py")
def test_the_fused_optimizer_leads_to_the_same_kernels_and_hands_them_its_rate(engine: Engine) -> None:
    fused = engine.model.fused_optimizer
    found = list(kernels_of_optimizer(fused))
    assert {id(kernel) for kernel in found} == {id(kernel) for _, kernel in kernels(engine)}
    assert len(found) == 2
    rates = [group["lr"] for group in fused.param_groups]
    try:
        for group in fused.param_groups:
            group["lr"] = 0.75
        fused.zero_grad()
        assert [kernel.get_learning_rate() for kernel in found] == [0.75, 0.75]
    finally:
        for group, rate in zip(fused.param_groups, rates, strict=True):
            group["lr"] = rate


@hook(
    "_apply_optimizer_in_backward",
    of="torch",
    used_in="dlrm/optim/tables/build.py",
    see="torchrec/distributed/utils.py",
)
def test_an_optimizer_applied_in_backward_becomes_the_kernel_s_with_rate_and_hyper_parameters(engine: Engine) -> None:
    engine.optimizer.set_step(1)
    engine.optimizer.zero_grad()
    found = {config.embedding_tables[0].name: kernel for config, kernel in kernels(engine)}
    assert {kernel.optimizer for kernel in found.values()} == {EmbOptimType.EXACT_ADAGRAD}
    assert {kernel.optimizer_args.eps for kernel in found.values()} == {0.001}
    assert {name: round(kernel.get_learning_rate(), 6) for name, kernel in found.items()} == {
        "cat_1": 0.1,
        "cat_2": 0.2,
    }


@hook("purge", of="torchrec", used_in="dlrm/sharding/dirty_rows.py, which puts its own in the place of it", see=LOOKUPS)
def test_purging_a_lookup_purges_its_kernels_and_can_be_replaced(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    (lookup,) = fused_lookups(engine.model)
    calls: list[str] = []
    for _, module in zip(lookup.grouped_configs, lookup._emb_modules, strict=True):
        monkeypatch.setattr(module, "purge", lambda: calls.append("kernel"))
    forget_cached_rows(engine.model)
    assert calls == ["kernel", "kernel"]
    monkeypatch.setattr(lookup, "purge", lambda: calls.append("replaced"))
    forget_cached_rows(engine.model)
    assert calls[2:] == ["replaced"]


@pytest.fixture
def kernel() -> SplitTableBatchedEmbeddingBagsCodegen:
    specs = [(rows, dim, EmbeddingLocation.HOST, ComputeDevice.CPU) for rows, dim in ((2, 4), (3, 8))]
    return SplitTableBatchedEmbeddingBagsCodegen(specs, optimizer=EmbOptimType.EXACT_ROWWISE_ADAGRAD, eps=1e-8)


@hook("iter_cpu", "iter", of="fbgemm", used_in=f"{INTERNALS}: set_trained_steps", see=f"{TBE}: what forward does")
def test_a_kernel_counts_its_steps_in_two_places(kernel: SplitTableBatchedEmbeddingBagsCodegen) -> None:
    for counter in (kernel.iter_cpu, kernel.iter):
        assert (counter.dtype, tuple(counter.shape)) == (torch.int64, (1,))
    kernel.iter.fill_(5)
    set_trained_steps(kernel, 7)
    assert (kernel.iter_cpu.item(), kernel.iter.item()) == (7, 5)
    set_trained_steps(kernel, 0)
    assert (kernel.iter_cpu.item(), kernel.iter.item()) == (0, 0)
    source = inspect.getsource(SplitTableBatchedEmbeddingBagsCodegen)  # the optimizers that count have no CPU kernel
    assert "self.iter_cpu.add_(1)" in source
    assert "if self.iter_cpu.item() == 0:" in source


@hook(
    "get_optimizer_state", "split_optimizer_states", of="fbgemm",
    used_in="dlrm/sharding/wrap.py, column_shards.py", see=TBE,
)  # fmt: skip
def test_the_state_of_a_kernel_comes_by_table_and_name_as_views(kernel: SplitTableBatchedEmbeddingBagsCodegen) -> None:
    by_name = kernel.get_optimizer_state()
    assert [{name: tuple(state.shape) for name, state in states.items()} for states in by_name] == [
        {"sum": (2,)}, {"sum": (3,)},
    ]  # fmt: skip
    by_name[1]["sum"].fill_(9.0)
    assert [states[0].tolist() for states in kernel.split_optimizer_states()] == [[0.0] * 2, [9.0] * 3]


@hook(
    "embedding_specs", "feature_table_map", "hash_size_cumsum", "weights_host", "use_cpu", of="fbgemm",
    used_in="dlrm/sharding/empty_shards.py", see=f"{TBE} and embedding_forward_split_cpu.cpp",
)  # fmt: skip
def test_a_cpu_kernel_tells_tables_apart_by_cumulated_rows(kernel: SplitTableBatchedEmbeddingBagsCodegen) -> None:
    assert kernel.use_cpu is True
    assert [tuple(spec[:2]) for spec in kernel.embedding_specs] == [(2, 4), (3, 8)]
    assert list(kernel.feature_table_map) == [0, 1]
    assert kernel.hash_size_cumsum.tolist() == [0, 2, 5]
    assert kernel.weights_host.numel() == 2 * 4 + 3 * 8
    empty = SplitTableBatchedEmbeddingBagsCodegen([(0, 8, EmbeddingLocation.HOST, ComputeDevice.CPU)])
    assert empty.weights_host.numel() == 0
    empty.weights_host = empty.weights_host.new_zeros(1)  # may be replaced where there is nothing in it
    assert empty.weights_host.numel() == 1


@hook(
    "weights_offsets", "pooling_mode", "embedding_specs", of="fbgemm", used_in="dlrm/sharding/unpooled_on_cpu.py",
    see="class DenseTableBatchedEmbeddingBagsCodegen beside it, and split_embedding_codegen_lookup_dense_function",
)  # fmt: skip
def test_the_module_of_data_parallel_tables_sums_rows_on_the_cpu_although_it_is_told_not_to() -> None:
    """Where it no longer does, dlrm/sharding/unpooled_on_cpu.py can go; until then it gives what the module should."""
    dense = DenseTableBatchedEmbeddingBagsCodegen(
        [(3, 4), (2, 4)], feature_table_map=[0, 0, 1], pooling_mode=PoolingMode.NONE, use_cpu=True
    )
    ids, offsets = torch.tensor([2, 0, 1, 1, 1, 0]), torch.tensor([0, 2, 2, 3, 3, 4, 6])  # two samples, three features
    assert dense(ids, offsets).shape == (2, 3 * 4)
    first, second = dense.split_embedding_weights()
    rows_ND = rows_of(dense, ids, offsets)
    assert torch.equal(rows_ND, torch.cat((first[ids[:3]], second[ids[3:]])))
    rows_ND.sum().backward()
    assert torch.equal(dense.weights.grad.view(5, 4)[:, 0], torch.tensor([1.0, 1, 1, 1, 2]))


@hook("lxu_cache_weights", "current_device", of="fbgemm", used_in=f"{INTERNALS}: caches_rows", see=TBE)
def test_a_kernel_has_a_cache_which_is_empty_where_nothing_is_cached(
    kernel: SplitTableBatchedEmbeddingBagsCodegen,
) -> None:
    assert isinstance(kernel.lxu_cache_weights, torch.Tensor)  # under another name every cache would pass for none
    assert not caches_rows(kernel)
    kernel.lxu_cache_weights = torch.zeros(1, 8)
    assert caches_rows(kernel)
    assert kernel.current_device == torch.device("cpu")


@hook(
    "_foreach_add_", "_foreach_div", "_foreach_mul", "_foreach_sqrt", of="torch", used_in="dlrm/optim/tables",
    see="the operators of torch/optim that are called with foreach=True",
)  # fmt: skip
def test_operators_on_lists_do_to_each_tensor_what_the_plain_ones_do() -> None:
    first = [torch.rand(3, 4), torch.rand(2)]
    other = [torch.rand(3, 4), torch.rand(2)]
    for many, one in (
        (torch._foreach_mul(first, other), torch.mul),
        (torch._foreach_div(first, other), torch.div),
    ):
        assert all(torch.equal(got, one(a, b)) for got, a, b in zip(many, first, other, strict=True))
    assert all(torch.equal(got, a.sqrt()) for got, a in zip(torch._foreach_sqrt(first), first, strict=True))
    sums = [a.clone() for a in first]
    torch._foreach_add_(sums, other, alpha=-0.25)
    assert all(torch.equal(got, a - 0.25 * b) for got, a, b in zip(sums, first, other, strict=True))
    torch._foreach_add_(sums, 0.5)
    assert all(torch.equal(got, a - 0.25 * b + 0.5) for got, a, b in zip(sums, first, other, strict=True))
