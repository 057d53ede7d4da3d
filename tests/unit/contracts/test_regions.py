"""torchrec: what it calls its regions, and where its lookups and collectives are found."""

from __future__ import annotations

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.algorithms.ddp_comm_hooks import default_hooks
from torch.nn.parallel import DistributedDataParallel
from torch.profiler import ProfilerActivity, profile
from torchrec.distributed import comm_ops, dist_data
from torchrec.distributed.embedding_lookup import GroupedPooledEmbeddingsLookup

from dlrm.data.loader import BatchLoader
from dlrm.data.order import SampleOrder
from dlrm.distributed.internals import all_lookups
from dlrm.scaling.benchmark.collectives import WAIT, named_waits
from dlrm.scaling.benchmark.stages import TORCHREC
from dlrm.train.engine import Engine
from dlrm.train.stepper import Stepper
from tests.support.training import tiny_dataset
from tests.unit.contracts.hooks import hook

_ONE_PIPELINE_S = {"sparse_dist": {"## load batch"}, "base": {"## next_batch", "## start_sparse_data_dist",
    "## wait_sparse_data_dist", "## runtime_forward_assemble_KJT"}}  # fmt: skip


@pytest.mark.parametrize("pipeline", ["base", "sparse_dist"])
@hook(
    "record_function",
    of="torchrec",
    used_in="dlrm/scaling/benchmark/stages.py",
    see="record_function in train_pipelines.py",
)
def test_torchrec_names_the_parts_of_a_step(engine: Engine, pipeline: str) -> None:
    loader = BatchLoader(tiny_dataset(100).train, SampleOrder(100, global_batch_size=10), rank=0, world_size=1)
    stepper = Stepper(engine.model, engine.optimizer, torch.device("cpu"), pipeline)  # type: ignore[arg-type]
    with profile(activities=[ProfilerActivity.CPU]) as profiler:
        assert len(list(stepper.train(loader.batches(0, 0, 5), first_step=1))) == 5
    found = {event.name for event in profiler.events()}
    missing = {start for start in (*TORCHREC, "## backward") if not any(name.startswith(start) for name in found)}
    assert missing - {"[tensors_dist]"} == _ONE_PIPELINE_S[pipeline]


@hook("_lookups", of="torchrec", used_in="dlrm/distributed/internals.py", see="ShardedEmbeddingBagCollection")
def test_lookups_are_modules_of_a_list_of_which_those_of_data_parallel_tables_are_replicated(engine: Engine) -> None:
    kinds = [type(lookup) for lookup in all_lookups(engine.model)]
    assert sorted(kinds, key=str) == [DistributedDataParallel, GroupedPooledEmbeddingsLookup]


@hook(
    "dist",
    of="torchrec",
    used_in="dlrm/scaling/benchmark/ablation.py and collectives.py",
    see="torchrec/distributed/comm_ops.py, dist_data.py",
)
def test_torchrec_looks_collectives_up_in_torch_distributed_when_it_calls_them() -> None:
    assert comm_ops.dist is dist_data.dist is dist


@hook(
    "_comm_hooks",
    of="torch",
    used_in="dlrm/scaling/benchmark/collectives.py",
    see="DistributedDataParallel.register_comm_hook",
)
def test_a_replica_knows_whether_a_hook_sums_its_gradients(engine: Engine) -> None:
    replica = DistributedDataParallel(nn.Linear(2, 3))
    assert replica._comm_hooks == []
    replica.register_comm_hook(None, default_hooks.allreduce_hook)
    assert len(replica._comm_hooks) == 1
    assert replica.require_backward_grad_sync
    assert replica.parameters_to_ignore == set()


@pytest.mark.parametrize("async_op", [False, True])
@hook("wait", of="torch", used_in="dlrm/scaling/benchmark/collectives.py", see="distributed_c10d.py, class Work")
def test_whoever_waits_for_a_collective_calls_the_wait_of_its_class(engine: Engine, async_op: bool) -> None:
    with profile(activities=[ProfilerActivity.CPU]) as profiler, named_waits():
        work = dist.all_to_all_single(torch.empty(3), torch.ones(3), async_op=async_op)
        if work is not None:
            assert isinstance(work, dist.Work)  # else torchrec would not wait for it
            work.wait()
    assert [event.name for event in profiler.events()].count(WAIT) == 1
