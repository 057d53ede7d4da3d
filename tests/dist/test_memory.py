"""What the account says of tables, their optimizer, dense parameters and copies is what is really allocated."""

import itertools

import pytest
from torch import nn
from torch.profiler import ProfilerActivity, profile

from dlrm import memory
from dlrm.checkpoint.snapshot import chunks_to_write
from dlrm.config import load_config
from dlrm.data.loader import BatchLoader
from dlrm.data.order import SampleOrder
from dlrm.distributed.internals import fused_lookups, kernels_of
from dlrm.memory import Bytes
from dlrm.schema import Schema
from dlrm.train import engine as engine_module
from dlrm.train.checkpointing.state import engine_tensors
from dlrm.train.engine import build_engine
from tests.support.ranks import run_ranks
from tests.support.training import this_world, tiny_source

ROWS = (7, 50, 300, 40)
OPTIONS = ["model.embedding_dim=16", "model.bottom_mlp=8,16", "model.top_mlp=8,1"]
SMALL = 64  # bytes: counters of steps, what a division over the ranks rounds


def bytes_of(tensors):
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def allocated(rank, world_size, *options):
    """What is expected of each part, and what there is."""
    config, world = load_config(None, [*OPTIONS, *options]), this_world()
    engine = build_engine(config, Schema.numbered(3, ROWS), world)
    kernels = [kernel for lookup in fused_lookups(engine.model) for _, kernel in kernels_of(lookup)]
    weights = [weight for kernel in kernels for weight in kernel.split_embedding_weights()]
    states = [state for kernel in kernels for of_table in kernel.split_optimizer_states() for state in of_table]
    unfused = engine.optimizer.unfused_state()
    parameters = dict(engine.model.named_parameters())
    replicated = [name for name in unfused if ".embedding_bags." in name]
    dense = [name for name in unfused if ".embedding_bags." not in name]
    found = {
        memory.TABLES: bytes_of([*weights, *(parameters[name] for name in replicated)]),
        memory.TABLE_STATE: bytes_of([*states, *(state for name in replicated for state in unfused[name].values())]),
        memory.DENSE: bytes_of(parameters[name] for name in dense),
        memory.DENSE_STATE: bytes_of(state for name in dense for state in unfused[name].values()),
        memory.COPIES: sum(chunk.bytes for chunk in chunks_to_write(engine_tensors(engine), rank, world_size)),
    }
    expected = {name: engine.memory.parts.get(name, Bytes()).host for name in found}
    return expected, found, bytes_of(parameters[name] for name in (*dense, *replicated))


@pytest.mark.parametrize("optimizer", ["sgd", "adagrad", "rowwise_adagrad"])
@pytest.mark.parametrize("kind", ["table_wise", "row_wise", "column_wise", "grid_shard", "data_parallel"])
def test_each_part_is_what_a_rank_allocates(kind, optimizer):
    options = [f"sharding.types={kind}", f"optim.sparse={{kind: {optimizer}, lr: 0.1}}"]
    options += ["optim.dense={kind: adam, lr: 0.1}", "train.average_decay=0.9"]
    ranks = run_ranks(allocated, 2, *options)
    for expected, found, replicated in ranks:
        for name in (memory.TABLES, memory.TABLE_STATE, memory.DENSE):
            assert expected[name] == found[name], name
        assert abs(expected[memory.DENSE_STATE] - found[memory.DENSE_STATE]) <= SMALL
        # What all ranks have is written by either: by whole tensors, so not half and half.
        assert abs(expected[memory.COPIES] - found[memory.COPIES]) <= 4 * replicated
    both = [sum(of_rank[which][memory.COPIES] for of_rank in ranks) for which in (0, 1)]
    assert abs(both[0] - both[1]) <= SMALL


def test_nothing_is_copied_where_nothing_is_saved():
    ((expected, _, _),) = run_ranks(allocated, 1, "checkpoint.enabled=false")
    assert expected[memory.COPIES] == 0


def held(rank, world_size, *options):
    """Bytes that torch's allocator holds at most in a step, by the profiler, beyond those of before; and the account's."""
    config, source = load_config(None, [*options, "checkpoint.enabled=false"]), tiny_source(4096 * 8)
    world = this_world()
    engine = build_engine(config, source.schema, world)
    order = SampleOrder(4096 * 8, global_batch_size=4096)
    loader = BatchLoader(source, order, rank=rank, world_size=world_size)
    batches = list(loader.batches(0, 0, 8))  # read by now
    steps = engine.stepper.train(iter(batches), first_step=1)
    for _ in range(3):
        next(steps)
    peaks = []
    for _ in range(4):
        with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
            next(steps)
        events = sorted(profiler.profiler.kineto_results.events(), key=lambda event: event.start_ns())
        changes = [event.nbytes() for event in events if event.name() == "[memory]"]
        peaks.append(max(itertools.accumulate(changes)))
    # Where the other rank is late, what was sent to it is held for longer: that is not what follows from shapes.
    return min(peaks), engine.memory.parts[memory.ACTIVATIONS].host


@pytest.mark.parametrize("ranks", [1, 2])
@pytest.mark.parametrize(
    "options",
    [
        ["model.embedding_dim=64", "model.bottom_mlp=32,64", "model.top_mlp=64,1"],
        ["model.embedding_dim=16", "model.bottom_mlp=256,16", "model.top_mlp=512,256,1"],
        ["model.embedding_dim=32", "model.bottom_mlp=64,32", "model.top_mlp=64,1",
         "model.interaction={kind: dcn, layers: 3, rank: 32}"],
    ],
)  # fmt: skip
def test_activations_are_what_torch_allocates_in_a_step(options, ranks):
    for found, expected in run_ranks(held, ranks, *options, "train.global_batch_size=4096"):
        assert expected == pytest.approx(found, rel=0.1)


class AsksForValues(nn.Module):
    def __init__(self, interaction):
        super().__init__()
        self.interaction = interaction

    def forward(self, dense_BD, pooled_BX):
        return self.interaction(dense_BD, pooled_BX) * (1.0 if pooled_BX.sum() > 0 else 2.0)


def train_what_asks_for_values(rank, world_size):
    config, source = load_config(None, [*OPTIONS, "train.global_batch_size=8"]), tiny_source(16)
    build_model = engine_module.build_model

    def with_child(*args, **kwargs):
        model = build_model(*args, **kwargs)
        model.interaction = AsksForValues(model.interaction)
        return model

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(engine_module, "build_model", with_child)
        engine = build_engine(config, source.schema, this_world())
    loader = BatchLoader(source, SampleOrder(16, global_batch_size=8), rank=rank, world_size=world_size)
    steps = len(list(engine.stepper.train(loader.batches(0, 0, 2), first_step=1)))
    return steps, memory.ACTIVATIONS in engine.memory.parts, engine.memory.missing


def test_a_model_that_does_not_run_without_values_trains_and_the_account_says_what_is_missing():
    for steps, counted, missing in run_ranks(train_what_asks_for_values, 2):
        assert (steps, counted) == (2, False)
        assert missing.startswith("the activations of DLRM are not in the memory account: it does not run on tensors ")
        assert "(DataDependentOutputException: aten._local_scalar_dense.default)" in missing
