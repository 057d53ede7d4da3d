"""Any world and sharding takes over the state of any other, and what is resumed is the same training."""

import os
import subprocess
import sys

import pytest
import torch

from dlrm.checkpoint.saver import AsyncSaver
from dlrm.checkpoint.stored import open_checkpoint
from dlrm.config import load_config
from dlrm.data.loader import BatchLoader
from dlrm.data.order import SampleOrder
from dlrm.optim.averaging import ExponentialAverage
from dlrm.run.console import Silent
from dlrm.run.recorder import NoRecorder
from dlrm.train.build import build_job
from dlrm.train.checkpointing.load import load_state, saved_config
from dlrm.train.checkpointing.metadata import MetadataOfRun
from dlrm.train.checkpointing.state import after_load, engine_tensors
from dlrm.train.checkpointing.train_state import TrainingData
from dlrm.train.engine import build_engine
from dlrm.train.schedule import BEGINNING, Schedule
from tests.support.ranks import run_ranks
from tests.support.training import this_world, tiny_dataset
from tests.support.whole_state import fill_state, gather_state

SAMPLES = 330
SMALL = [
    "model.bottom_mlp=16,16",
    "model.embedding_dim=16",
    "model.top_mlp=16,1",
    "train.global_batch_size=48",
]
OPTIMIZERS = {
    "sgd": ["optim.sparse={kind: sgd, lr: 0.1}", "optim.dense={kind: sgd, lr: 0.05, momentum: 0.9}"],
    "adagrad": ["optim.sparse={kind: adagrad, lr: 0.05}", "optim.dense={kind: adagrad, lr: 0.02}"],
    "rowwise_adagrad": ["optim.sparse={kind: rowwise_adagrad, lr: 0.05}", "optim.dense={kind: adam, lr: 0.01}"],
}
STATES = {"sgd": {}, "adagrad": {"sum": (300, 16)}, "rowwise_adagrad": {"sum": (300,)}}

# Worlds as (ranks, ranks of a host), and the shardings through which the state goes there, one after the other.
# scripts/checkpoint_matrix.py goes from each to each.
ROUTE = [
    ((1, 1), ["table_wise", "column_wise"]),
    ((4, 2), ["grid_shard", "table_row_wise"]),
    ((2, 1), ["table_column_wise", "data_parallel"]),
    ((3, 3), ["row_wise", "column_wise"]),
    ((1, 1), ["data_parallel"]),
    ((2, 2), ["table_wise", "row_wise"]),
]
STEPS_A_STAY = 2


def be_on_hosts_of(ranks_per_host, rank):
    os.environ.update(LOCAL_WORLD_SIZE=str(ranks_per_host), LOCAL_RANK=str(rank % ranks_per_host))


def train_steps(engine, world, first, steps):
    """Mean losses of the global batches; an epoch has seven."""
    order = SampleOrder(SAMPLES, global_batch_size=48, seed=0, shuffle=True)
    loader = BatchLoader(tiny_dataset(SAMPLES).train, order, rank=world.rank, world_size=world.size)
    losses = []
    for step in range(first, first + steps):
        epoch, batch = divmod(step - 1, order.num_batches)
        for output in engine.stepper.train(loader.batches(epoch, batch, batch + 1), first_step=step):
            loss = output.loss.double() / world.size
            world.collectives.all_reduce_sum_(loss)
            losses.append(loss.item())
    return losses


def assert_equal(actual, expected):
    assert list(actual) == list(expected)
    differing = [name for name in actual if not torch.equal(actual[name], expected[name])]
    assert not differing


def travelled(rank, world_size, ranks_per_host, shardings, states, first):
    """Load the states into each sharding, compare, and train on; the states and losses by optimizer."""
    be_on_hosts_of(ranks_per_host, rank)
    world = this_world()
    schema = tiny_dataset(SAMPLES).schema
    losses = {name: [] for name in OPTIMIZERS}
    for sharding in shardings:
        for name, options in OPTIMIZERS.items():
            config = load_config(None, [*SMALL, *options, f"sharding.types={sharding}"])
            engine = build_engine(config, schema, world)
            if name in states:
                fill_state(engine, states[name])
                assert_equal(gather_state(engine, world.collectives), states[name])
            losses[name] += train_steps(engine, world, first, STEPS_A_STAY)
            states[name] = gather_state(engine, world.collectives)
        first += STEPS_A_STAY
    return states, losses


def test_every_sharding_and_world_takes_over_the_state_of_others_to_the_bit_and_trains_on():
    states, first = {}, 1
    losses = {name: [] for name in OPTIMIZERS}
    for (ranks, ranks_per_host), shardings in ROUTE:
        by_rank = run_ranks(travelled, ranks, ranks_per_host, shardings, states, first)
        states, seen = by_rank[0]
        for name in OPTIMIZERS:
            losses[name] += seen[name]
        first += STEPS_A_STAY * len(shardings)
    for name, state in states.items():
        of_table = {key.split(".")[-1]: tuple(tensor.shape) for key, tensor in state.items() if "cat_2.opt" in key}
        assert of_table == STATES[name]
        assert all(bool(tensor.any()) for key, tensor in state.items() if ".optimizer." in key)
    _, uninterrupted = run_ranks(uninterrupted_losses, 1, first - 1)[0]
    for name in OPTIMIZERS:
        assert losses[name] == pytest.approx(uninterrupted[name], rel=2e-6)


def uninterrupted_losses(rank, world_size, steps):
    world = this_world()
    losses = {}
    for name, options in OPTIMIZERS.items():
        config = load_config(None, [*SMALL, *options, "sharding.types=table_wise"])
        engine = build_engine(config, tiny_dataset(SAMPLES).schema, world)
        losses[name] = train_steps(engine, world, 1, steps)
    return None, losses


MIXED = [
    "sharding.tables.cat_0.types=data_parallel",
    "sharding.tables.cat_1.types=row_wise",
    "sharding.tables.cat_3.types=column_wise",
]
RUNS = {
    "momentum, schedule, mean pooling": [
        "optim.sparse={kind: sgd, lr: 0.1}",
        "optim.dense={kind: sgd, lr: 0.1, momentum: 0.9, weight_decay: 0.01}",
        "optim.schedule={warmup_steps: 12, decay_start_step: 14, decay_steps: 8}",
        "model.pooling=mean",
    ],
    "adagrad, average, unequal tables": [
        "optim.sparse={kind: adagrad, lr: 0.1}",
        "optim.dense={kind: adagrad, lr: 0.05, weight_decay: 0.01}",
        "model.interaction.kind=cat",
        "model.tables.cat_1.embedding_dim=8",
        "train.average_decay=0.9",
        "optim.lr_scale={cat_2: 2, top_mlp: 0.5}",
    ],
    "adam, dropout, tables reset, clipping": [
        "optim.dense={kind: adam, lr: 0.01}",
        "model.interaction={kind: dcn, rank: 4}",
        "model.dropout=0.3",
        "train.reset_tables_each_epoch=true",
        "train.average_decay=0.8",
        "optim.clip_norm=0.1",
    ],
    "adamw, projection, base pipeline": [
        "optim.dense={kind: adamw, lr: 0.01}",
        "model.interaction={kind: projection, branch1: '16', branch2: '16'}",
        "train.pipeline=base",
    ],
}
LENGTH = 17  # two epochs of seven steps, and three steps more


def job_of(config, world, steps, start=BEGINNING):
    config = config.model_copy(update={"train": config.train.model_copy(update={"max_steps": steps})})
    dataset = tiny_dataset(SAMPLES)
    engine = build_engine(config, dataset.schema, world)
    schedule = Schedule.of(config.train, seed=config.run.seed, num_samples=SAMPLES)
    return build_job(config, dataset, schedule, engine, world, NoRecorder(), Silent(), start=start)


def trained(config, world, steps, start=None):
    """State, position and validation result after training to a step, from the start or from (state, position)."""
    state, position = start or (None, BEGINNING)
    job = job_of(config, world, steps, position)
    if state is not None:
        fill_state(job.engine, state)
    job.trainer.fit()
    return gather_state(job.engine, world.collectives), job.trainer.position, job.measured.validation


def interrupted_and_not(rank, world_size, stops, options):
    config = load_config(None, [*SMALL, *MIXED, *options, "train.epochs=4", "evaluation.every_steps=5"])
    world = this_world()
    whole_state, whole_position, whole_result = trained(config, world, LENGTH)
    for stop in stops:
        state, position, _ = trained(config, world, stop)
        assert position.step == stop
        resumed_state, resumed_position, resumed_result = trained(config, world, LENGTH, (state, position))
        assert_equal(resumed_state, whole_state)
        assert (resumed_position, resumed_result) == (whole_position, whole_result)


@pytest.mark.parametrize("run", list(RUNS))
def test_resumed_training_is_that_of_a_run_without_interruption_to_the_bit(run):
    """Stopped in the middle of the second epoch, and at its end."""
    run_ranks(interrupted_and_not, 2, [9, 14], RUNS[run])


@pytest.mark.parametrize("world_size", [1, 3])
def test_resumed_training_is_the_same_to_the_bit_on_other_worlds(world_size):
    """From three ranks on, it counts in which order the ranks' gradients are added up."""
    run_ranks(interrupted_and_not, world_size, [9], RUNS["adam, dropout, tables reset, clipping"])


def test_state_is_complete_before_the_first_step():
    run_ranks(untrained_and_trained_names, 1)


def untrained_and_trained_names(rank, world_size):
    world = this_world()
    for options in RUNS.values():
        config = load_config(None, [*SMALL, *MIXED, *options])
        before = [tensor.name for tensor in engine_tensors(job_of(config, world, 1).engine)]
        after, _, _ = trained(config, world, 1)
        assert list(after) == before


def kernel_steps(rank, world_size):
    config = load_config(None, [*SMALL, "sharding.types=table_wise", "train.epochs=2"])
    job = job_of(config, this_world(), 9)
    job.evaluator.evaluate(job.validation)
    job.trainer.fit()  # evaluates after the first epoch
    return [kernel.iter_cpu.item() for kernel in job.engine.optimizer._kernels], job.validation.order.num_batches


def test_fbgemm_counts_trained_steps_and_not_evaluations():
    """Of row-wise Adagrad it does not matter, but Adam, which needs CUDA, corrects its moments' bias by this count."""
    counts, evaluation = run_ranks(kernel_steps, 1)[0]
    assert set(counts) == {9 + evaluation}  # the final evaluation comes after the last step


def average_of_a_state_without(rank, world_size):
    world = this_world()
    state, _, _ = trained(load_config(None, SMALL), world, 3)
    engine = job_of(load_config(None, [*SMALL, "train.average_decay=0.9"]), world, 3).engine
    for tensor in engine_tensors(engine):
        if not tensor.name.startswith("average."):
            for block in tensor.shards:
                block.tensor.copy_(state[tensor.name])
    after_load(engine)
    assert isinstance(engine.average, ExponentialAverage)
    averages = gather_state(engine, world.collectives)
    return all(torch.equal(averages[f"average.{name}"], state[name]) for name in state if ".optimizer." not in name)


def test_an_average_that_the_state_has_not_begins_with_its_weights():
    assert run_ranks(average_of_a_state_without, 1) == [True]


def predictions(engine, world):
    """Of this rank for its part of the test samples, with the averaged weights where there are some."""
    order = SampleOrder(SAMPLES, global_batch_size=48)
    loader = BatchLoader(tiny_dataset(SAMPLES).test, order, rank=world.rank, world_size=world.size)
    with engine.average.applied():
        return torch.cat(
            [output.logits_BT for output in engine.stepper.predict(loader.batches(0, 0, order.num_batches))]
        )


def saved_and_loaded_without_a_trainer(rank, world_size, folder, options):
    """Predictions of the engine that was trained and saved, and of one that only the checkpoint was loaded into."""
    world, config = this_world(), load_config(None, [*SMALL, *options, "train.max_steps=9", "train.epochs=2"])
    job = job_of(config, world, 9)
    job.trainer.fit()
    of_run = MetadataOfRun(config, TrainingData(SAMPLES), world, job.engine.placements, job.measured, versions={})
    saver = AsyncSaver(folder, world.collectives)
    saver.save(9, engine_tensors(job.engine), of_run(job.trainer.position, "end", None))
    saver.wait()
    checkpoint = open_checkpoint(saver.last.path)
    assert saved_config(checkpoint) == config
    bare = build_engine(saved_config(checkpoint), tiny_dataset(SAMPLES).schema, world)
    before = predictions(bare, world)
    assert load_state(bare, checkpoint, world.collectives) == []
    assert_equal(gather_state(bare, world.collectives), gather_state(job.engine, world.collectives))
    return predictions(job.engine, world), predictions(bare, world), before


@pytest.mark.parametrize("run", ["adagrad, average, unequal tables", "adam, dropout, tables reset, clipping"])
def test_an_engine_predicts_the_same_after_loading_what_a_trainer_has_saved(run, tmp_path):
    for trained, loaded, before in run_ranks(
        saved_and_loaded_without_a_trainer, 2, str(tmp_path), [*MIXED, *RUNS[run]]
    ):
        assert torch.equal(loaded, trained)
        assert not torch.equal(before, trained)


def test_loading_needs_neither_run_nor_hooks_nor_display():
    script = "import sys; import dlrm.train.checkpointing.load; print(*sorted(sys.modules))"
    found = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout.split()
    assert {name for name in found if name.startswith(("dlrm.train.", "dlrm.run."))} == {
        "dlrm.train.checkpointing",
        "dlrm.train.checkpointing.load",
        "dlrm.train.checkpointing.state",
        "dlrm.train.engine",
        "dlrm.train.growing",
        "dlrm.train.memory",
        "dlrm.train.precision",
        "dlrm.train.stepper",
    }
