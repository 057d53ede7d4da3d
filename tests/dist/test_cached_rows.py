"""The caches in front of tables in host memory need CUDA; here the kernels' flush and purge are watched instead."""

import pytest
import torch

from dlrm.config import load_config
from dlrm.distributed.internals import fused_lookups
from dlrm.train.engine import build_engine
from tests.dist.test_levers import SMALL
from tests.support.ranks import run_ranks
from tests.support.training import this_world, tiny_dataset


def watched_calls(rank, world_size, caching):
    """Calls of flush and purge in an update and an exchange of averaged weights."""
    import fbgemm_gpu.split_table_batched_embeddings_ops_training as fbgemm

    calls = []
    kernel = fbgemm.SplitTableBatchedEmbeddingBagsCodegen
    real_init = kernel.__init__

    def with_cache(self, *arguments, **keywords):
        real_init(self, *arguments, **keywords)
        self.lxu_cache_weights = torch.zeros(1, 8)

    if caching:
        kernel.__init__ = with_cache
    kernel.flush = lambda self: calls.append("flush")
    config = load_config(None, [*SMALL, "train.average_decay=0.9", "sharding.types=table_wise"])
    engine = build_engine(config, tiny_dataset(100).train.schema, this_world())
    for lookup in fused_lookups(engine.model):
        lookup.purge = lambda: calls.append("purge")
    calls.clear()
    engine.average.update()
    with engine.average.applied():
        calls.append("evaluate")
    return calls


@pytest.mark.parametrize("caching", [True, False])
def test_averaging_brings_cached_rows_home_before_it_reads_and_drops_them_after_it_writes(caching):
    (calls,) = run_ranks(watched_calls, 1, caching)
    if not caching:
        assert calls == ["evaluate"]
        return
    assert calls == ["flush", "flush", "purge", "evaluate", "flush", "purge"]
