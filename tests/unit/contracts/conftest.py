from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch.distributed as dist

from dlrm.config import load_config
from dlrm.train.engine import Engine, build_engine
from tests.support.training import this_world, tiny_dataset


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    """A sharded model on one rank: cat_0 is replicated, cat_2 in a kernel of its own."""
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    options = ["model.embedding_dim=16", "model.bottom_mlp=8,16", "model.top_mlp=8,1", "train.global_batch_size=10"]
    options += ["optim.sparse={kind: adagrad, lr: 0.1, eps: 0.001}", "optim.lr_scale.cat_2=2"]
    options += ["sharding.types=table_wise", "sharding.tables.cat_0.types=data_parallel"]
    yield build_engine(load_config(None, options), tiny_dataset(100).train.schema, this_world())
    dist.destroy_process_group()
