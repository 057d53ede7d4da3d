"""In which portions gradients are summed over ranks."""

import pytest
from torch.nn.parallel import DistributedDataParallel

from dlrm.config import load_config
from dlrm.data.loader import BatchLoader
from dlrm.data.order import SampleOrder
from dlrm.distributed.internals import all_lookups
from dlrm.train.engine import build_engine
from tests.support.ranks import run_ranks
from tests.support.training import this_world, tiny_source

MIB = 2**20
MODEL = [
    "model.bottom_mlp=16,16",
    "model.embedding_dim=16",
    "model.top_mlp=1024,1024,1024,1",
    "train.global_batch_size=8",
]


def buckets(rank, world_size, options):
    """Bytes of each bucket of dense gradients after two steps, and of each parameter, in order of readiness."""
    config = load_config(None, [*MODEL, *options])
    source = tiny_source(16)
    engine = build_engine(config, source.schema, this_world())
    loader = BatchLoader(source, SampleOrder(16, global_batch_size=8), rank=rank, world_size=world_size)
    for _ in engine.stepper.train(loader.batches(0, 0, 2), first_step=1):
        pass
    (ddp,) = (module for module in engine.model.modules() if isinstance(module, DistributedDataParallel))
    told = ddp._get_ddp_logging_data()
    parameters = [4 * parameter.numel() for name, parameter in ddp.named_parameters() if "embedding_bags" not in name]
    tables = [lookup for lookup in all_lookups(engine.model) if isinstance(lookup, DistributedDataParallel)]
    return (
        [int(size) for size in told["rebuilt_bucket_sizes"].split(",")],
        parameters[::-1],
        [len(list(lookup.parameters())) for lookup in tables],
    )


def filled(sizes, first, later):
    """Parameters put into buckets one after the other, each bucket closed when it has reached its size."""
    found, limit = [0], first
    for size in sizes:
        if found[-1] >= limit:
            found, limit = [*found, 0], later
        found[-1] += size
    return found


@pytest.mark.parametrize(("options", "first", "later"), [([], 1, 25), (["train.all_reduce_bucket_mib=2"], 2, 2)])
def test_buckets_of_dense_gradients_have_the_size_asked_for(options, first, later):
    found, parameters, _ = run_ranks(buckets, 2, options)[0]
    assert found == filled(parameters, first * MIB, later * MIB)
    assert len(found) > 1


def test_data_parallel_tables_are_one_parameter_so_that_there_is_no_order_to_settle():
    """However they pool, and whatever their widths."""
    options = ["sharding.types=data_parallel", "model.interaction.kind=cat", "model.tables.cat_0.pooling=mean"]
    (_, _, parameters) = run_ranks(buckets, 1, [*options, "model.tables.cat_1.embedding_dim=8"])[0]
    assert parameters == [1]
