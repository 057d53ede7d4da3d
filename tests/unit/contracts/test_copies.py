"""What is put in the place of parts of torchrec's DMPCollection, and of what its pipelines do with one."""

from __future__ import annotations

import inspect

import torch
from torchrec.distributed.model_parallel import DMPCollection
from torchrec.distributed.train_pipeline import TrainPipelineSparseDist
from torchrec.distributed.types import ShardingEnv2D

from dlrm.sharding.copies import CopiedTables
from dlrm.sharding.id_exchange import SparseDistPipeline
from dlrm.train.engine import Engine
from tests.unit.contracts.hooks import hook

COLLECTION = "class DMPCollection in torchrec/distributed/model_parallel.py"


@hook(
    "_create_process_groups", "_init_dmp", "_group_sharded_modules", "_cache_sync_tensors", of="torchrec",
    used_in="dlrm/sharding/copies.py", see=COLLECTION,
)  # fmt: skip
def test_what_is_overridden_is_there_with_the_same_arguments(engine: Engine) -> None:
    for name in ("_create_process_groups", "_init_dmp", "_group_sharded_modules", "_cache_sync_tensors"):
        theirs, ours = (inspect.signature(getattr(kind, name)).parameters for kind in (DMPCollection, CopiedTables))
        assert list(ours) == list(theirs), name
    called = inspect.getsource(DMPCollection.__init__)
    assert all(
        f"self.{name}(" in called
        for name in ("_create_process_groups", "_group_sharded_modules", "_cache_sync_tensors")
    )


@hook(
    "_allreduce_tensors",
    "_default_ctx",
    "weights_by_dtype",
    of="torchrec",
    used_in="dlrm/sharding/copies.py",
    see=COLLECTION,
)
def test_what_is_averaged_is_what_the_context_names(engine: Engine) -> None:
    sync = inspect.getsource(DMPCollection._sync)
    assert "ctx.weights_by_dtype" in sync
    assert "ctx.optimizer_tensors_by_dtype" in sync
    assert list(inspect.signature(DMPCollection._allreduce_tensors).parameters)[1:] == [
        "ctx", "tensors_dict", "annotation", "opts",
    ]  # fmt: skip


@hook(
    "output_dtensor",
    of="torchrec",
    used_in="dlrm/sharding/copies.py",
    see="class ShardingEnv2D in torchrec/distributed/types.py",
)
def test_the_environment_says_whether_weights_are_dtensors(engine: Engine) -> None:
    assert "self.output_dtensor" in inspect.getsource(ShardingEnv2D.__init__)


@hook(
    "_dmp_collection_sync_interval_batches", of="torchrec", used_in="dlrm/sharding/id_exchange.py",
    see="class TrainPipelineSparseDist in torchrec/distributed/train_pipeline/train_pipelines.py",
)  # fmt: skip
def test_the_pipeline_leaves_copies_to_the_stepper(engine: Engine) -> None:
    """By itself it averages them after every batch."""
    arguments = (
        torch.nn.Linear(1, 1),
        torch.optim.SGD([torch.nn.Parameter(torch.ones(1))], lr=1.0),
        torch.device("cpu"),
    )
    assert TrainPipelineSparseDist(*arguments)._dmp_collection_sync_interval_batches == 1
    assert SparseDistPipeline(*arguments)._dmp_collection_sync_interval_batches is None
