"""The model inside torchrec's sharding and train pipeline, on one gloo rank."""

import copy
import logging

import pytest
import torch
import torch.distributed as dist
from torchrec.distributed import DistributedModelParallel, TrainPipelineSparseDist
from torchrec.distributed.embeddingbag import EmbeddingBagCollectionSharder
from torchrec.distributed.sharding_plan import (
    column_wise,
    construct_module_sharding_plan,
    data_parallel,
    row_wise,
    table_wise,
)
from torchrec.distributed.types import ShardingPlan

from dlrm.config.model import DlrmModel
from dlrm.models import TrainTask
from dlrm.schema import Schema
from tests.unit.models.helpers import cpu_model, random_batch

SCHEMA = Schema.numbered(5, rows=[40, 7, 100, 3, 20], hotness=[1, 3, 2, 3, 2])
# One mean-pooled table sharded by rows and one that is not; sums beside them: what torchrec's own mean gets wrong.
CONFIG = DlrmModel(
    embedding_dim=8,
    bottom_mlp=(16, 8),
    top_mlp=(12, 1),
    tables={"cat_1": {"pooling": "mean"}, "cat_3": {"pooling": "mean"}},
)


@pytest.fixture(scope="module", autouse=True)
def one_rank():
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def sharded(task: TrainTask) -> DistributedModelParallel:
    """Four sharding types, interleaved, so that the sharded collection returns the tables in another order."""
    sharder = EmbeddingBagCollectionSharder(fused_params={"learning_rate": 0.0})
    types = {
        "cat_0": table_wise(rank=0, compute_kernel="fused"),
        "cat_1": row_wise(compute_kernel="fused"),
        "cat_2": data_parallel(),
        "cat_3": table_wise(rank=0, compute_kernel="fused"),
        "cat_4": column_wise(ranks=[0], compute_kernel="fused"),
    }
    tables = construct_module_sharding_plan(
        task.model.tables, types, sharder=sharder, local_size=1, world_size=1, device_type="cpu"
    )
    plan = ShardingPlan(plan={"model.tables": tables})
    return DistributedModelParallel(task, device=torch.device("cpu"), plan=plan, sharders=[sharder])


def trained(model: torch.nn.Module, batches: list) -> tuple[TrainPipelineSparseDist, list[torch.Tensor]]:
    dense = {name: p for name, p in model.named_parameters() if "tables" not in name}
    pipeline = TrainPipelineSparseDist(model, torch.optim.SGD(dense.values(), lr=0.0), torch.device("cpu"))
    stream = iter(copy.deepcopy(batches))
    return pipeline, [pipeline.progress(stream) for _ in batches]


def test_the_sharded_tables_are_pipelined(caplog):
    model = sharded(TrainTask(cpu_model(CONFIG, SCHEMA)))
    with caplog.at_level(logging.INFO):
        pipeline, _ = trained(model, [random_batch(SCHEMA, samples=8, seed=seed) for seed in range(3)])
    assert [module.forward.name for module in pipeline._pipelined_modules] == ["model.tables"]
    warnings = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    assert not [message for message in warnings if "pipelined" in message or "zero input" in message]


def test_sharded_and_pipelined_it_gives_the_logits_of_the_plain_model():
    batches = [random_batch(SCHEMA, samples=8, seed=seed) for seed in range(3)]
    task = TrainTask(cpu_model(CONFIG, SCHEMA))
    plain = [task(batch)[1] for batch in batches]
    orders = []
    task.model.pooling.register_forward_pre_hook(lambda module, inputs: orders.append(inputs[0].keys()))
    _, outputs = trained(sharded_copy(task), batches)
    assert sorted(orders[0]) == task.model.pooling.names
    assert orders[0] != task.model.pooling.names  # or else this test would show less than it says
    for (loss, _, logits, *_), (expected_loss, _, expected_logits, *_) in zip(outputs, plain, strict=True):
        torch.testing.assert_close(logits, expected_logits, rtol=1e-6, atol=1e-7)
        torch.testing.assert_close(loss, expected_loss, rtol=1e-6, atol=1e-7)


def sharded_copy(task: TrainTask) -> DistributedModelParallel:
    """The same weights, sharded (DistributedModelParallel shards in place)."""
    weights = {name: bag.weight.detach().clone() for name, bag in task.model.tables.embedding_bags.items()}
    model = sharded(task)
    tables = {name: weight for name, weight in model.named_parameters() if "tables" in name}
    with torch.no_grad():
        for name, weight in weights.items():
            tables[f"model.tables.embedding_bags.{name}.weight"].copy_(weight)
    return model
