"""Copies of the tables that are averaged every so many steps: on 2 x 2 gloo ranks, against float64 by hand."""

import os

import numpy as np
import pytest
import torch

from dlrm.checkpoint.saver import AsyncSaver
from dlrm.checkpoint.snapshot import chunks_to_write
from dlrm.checkpoint.stored import open_checkpoint
from dlrm.config import load_config
from dlrm.schema import Schema
from dlrm.train.checkpointing.load import load_state
from dlrm.train.checkpointing.metadata import MetadataOfRun
from dlrm.train.checkpointing.state import engine_tensors
from dlrm.train.checkpointing.train_state import TrainingData
from dlrm.train.engine import build_engine
from dlrm.train.evaluator import Evaluator
from tests.dist import test_state
from tests.e2e.test_bad_input import assert_one_line_and_exit_code_2
from tests.support.command import run_command
from tests.support.copies_on_gloo import allow_copies_on_gloo
from tests.support.random_models import BagSource, RandomModel, assembled, train_model
from tests.support.ranks import run_ranks
from tests.support.training import this_world, tiny_dataset
from tests.support.training_by_hand import CopiesByHand, train_by_hand
from tests.support.whole_state import fill_state, gather_state

SAMPLES, BATCH = 55, 12  # the last batch of an epoch has 7 samples: ranks of 2, 2, 2 and 1
ROWS = [7, 9, 30, 3]
STRIDED, CONSECUTIVE = ((0, 2), (1, 3)), ((0, 1), (2, 3))
SMALL = [
    *("model.bottom_mlp=6,4", "model.top_mlp=6,1", "model.interaction.kind=cat", "model.embedding_dim=8"),
    *("optim.dense.kind=sgd", "optim.dense.lr=0.1", "sharding.min_column_width=4"),
    *("sharding.group_size=2", f"train.global_batch_size={BATCH}"),
]


def model_of(*options):
    random = np.random.default_rng(3)
    source = BagSource(
        Schema.numbered(3, ROWS),
        dense_MN=torch.from_numpy(random.standard_normal((SAMPLES, 3)).astype(np.float32)),
        ids_MS=torch.from_numpy(np.stack([random.integers(0, rows, SAMPLES) for rows in ROWS], axis=1)),
        lengths_MF=torch.ones(SAMPLES, len(ROWS), dtype=torch.int32),
        labels_MT=torch.from_numpy((random.random((SAMPLES, 1)) < 0.4).astype(np.float32)),
    )
    return RandomModel(0, 4, 4, load_config(None, [*SMALL, *options]), source)


def trained(rank, world_size, ranks_per_host, model):
    os.environ.update(LOCAL_WORLD_SIZE=str(ranks_per_host), LOCAL_RANK=str(rank % ranks_per_host))
    allow_copies_on_gloo()
    return train_model(rank, world_size, model)


def assert_trains_as_by_hand(model, copies, *, ranks_per_host=4, sharding=None):
    results = run_ranks(trained, 4, ranks_per_host, model)
    if sharding:
        assert set(results[0].sharding) == {sharding}
    losses, tensors = train_by_hand(model, copies)
    assert results[0].losses == pytest.approx(losses, rel=1e-6)
    found = assembled(results)
    assert found.keys() == tensors.keys()
    for name, tensor in tensors.items():
        np.testing.assert_allclose(found[name], tensor, atol=1e-6, err_msg=name)
    return losses


@pytest.mark.parametrize("sync_steps", [1, 3])
@pytest.mark.parametrize("optimizer", ["sgd", "adagrad", "rowwise_adagrad"])
def test_each_copy_learns_from_its_own_samples_and_they_are_averaged(optimizer, sync_steps):
    options = [f"optim.sparse={{kind: {optimizer}, lr: 0.1}}", f"sharding.sync_steps={sync_steps}"]
    model = model_of(*options, "sharding.types=table_wise")
    losses = assert_trains_as_by_hand(model, CopiesByHand(STRIDED, sync_steps))
    of_one_copy, _ = train_by_hand(model)
    same = losses == pytest.approx(of_one_copy, rel=1e-6)
    assert same == ((optimizer, sync_steps) == ("sgd", 1))  # that alone is the training of one copy


CUT = ["sharding.types=row_wise", "optim.sparse={kind: rowwise_adagrad, lr: 0.1}", "sharding.sync_steps=3"]


@pytest.mark.parametrize(
    ("ranks_per_host", "consecutive", "sharding"),
    [
        (4, False, "row_wise"),
        (4, True, "column_wise"),
        (4, False, "table_row_wise"),  # two ranks of each group on the host
        (2, True, "table_row_wise"),  # a group is a host
        (2, False, "table_column_wise"),  # each rank of a group is on a host of its own
        (4, False, "grid_shard"),
        (4, False, "data_parallel"),
    ],
)
def test_copies_may_be_sharded_in_every_way(ranks_per_host, consecutive, sharding):
    model = model_of(*CUT, f"sharding.types={sharding}", f"sharding.inter_host_sync={consecutive}")
    tables = [f"cat_{i}" for i in range(len(ROWS))] if sharding == "data_parallel" else []
    copies = CopiesByHand(CONSECUTIVE if consecutive else STRIDED, 3, replicated=tables)
    assert_trains_as_by_hand(model, copies, ranks_per_host=ranks_per_host, sharding=sharding)


def test_sharding_types_mix_with_replicated_tables_and_other_pipelines():
    types = zip(range(len(ROWS)), ("table_wise", "column_wise", "row_wise", "data_parallel"), strict=True)
    tables = [f"sharding.tables.cat_{i}.types={kind}" for i, kind in types]
    model = model_of(*CUT, *tables, "train.pipeline=base")
    assert_trains_as_by_hand(model, CopiesByHand(STRIDED, 3, replicated=["cat_3"]))


def test_copies_are_averaged_after_steps_and_not_after_micro_batches():
    model = model_of(*CUT, "train.accumulation_steps=3")
    assert_trains_as_by_hand(model, CopiesByHand(STRIDED, 3))


def test_every_rank_may_have_a_copy():
    model = model_of(*CUT, "sharding.types=table_wise", "sharding.group_size=1")
    assert_trains_as_by_hand(model, CopiesByHand(((0,), (1,), (2,), (3,)), 3))


TRAINED = ["sharding.group_size=2", "sharding.sync_steps=3"]


def resumed(rank, world_size, stops, options):
    allow_copies_on_gloo()
    test_state.interrupted_and_not(rank, world_size, stops, [*TRAINED, *options])


@pytest.mark.parametrize(
    ("stops", "run"),
    [
        ([9, 10], "momentum, schedule, mean pooling"),  # copies agree at 9 anyway, and for the evaluation at 10
        ([10, 14], "adagrad, average, unequal tables"),
        ([9], "adamw, projection, base pipeline"),
    ],
)
def test_resumed_training_of_copies_is_that_of_a_run_without_interruption_to_the_bit(stops, run):
    run_ranks(resumed, 4, stops, test_state.RUNS[run])


SAVED = [*test_state.SMALL, *test_state.MIXED, "train.average_decay=0.9", "train.epochs=2"]


def saved(rank, world_size, folder, options):
    """The state that was saved, and who wrote how much of it."""
    allow_copies_on_gloo()
    world, config = this_world(), load_config(None, [*SAVED, *options])
    job = test_state.job_of(config, world, 8)
    job.trainer.fit()
    tensors = engine_tensors(job.engine)
    written = sum(chunk.bytes for chunk in chunks_to_write(tensors, rank, world_size) if ".cat_2." in chunk.tensor)
    of_run = MetadataOfRun(config, TrainingData(330), world, job.engine.placements, job.measured, versions={})
    saver = AsyncSaver(folder, world.collectives)
    saver.save(8, tensors, of_run(job.trainer.position, "end", None))
    saver.wait()
    return gather_state(job.engine, world.collectives), written


def loaded(rank, world_size, folder, options):
    allow_copies_on_gloo()
    world, config = this_world(), load_config(None, [*SAVED, *options])
    engine = build_engine(config, tiny_dataset(330).schema, world)
    checkpoint = open_checkpoint(f"{folder}/step_00000008")
    assert load_state(engine, checkpoint, world.collectives) == []
    return gather_state(engine, world.collectives), 0


def test_one_copy_is_saved_and_several_and_one_load_each_other_s(tmp_path):
    of_several = run_ranks(saved, 4, str(tmp_path / "several"), TRAINED)
    assert [written > 0 for _, written in of_several] == [
        True,
        False,
        True,
        False,
    ]  # of the first group, of a whole table
    of_one = run_ranks(saved, 2, str(tmp_path / "one"), [])
    for expected, folder, ranks, options in (
        (of_several, "several", 2, []),
        (of_several, "several", 4, [*TRAINED, "sharding.types=row_wise"]),
        (of_one, "one", 4, [*TRAINED, "sharding.inter_host_sync=true"]),
    ):
        for state, _ in run_ranks(loaded, ranks, str(tmp_path / folder), options):
            test_state.assert_equal(state, expected[0][0])


def averages_and_weights(rank, world_size):
    """The exponential average of a table after seven steps, and what it should be: that of the mean of the copies."""
    allow_copies_on_gloo()
    world = this_world()
    config = load_config(None, [*test_state.SMALL, *TRAINED, "sharding.types=table_wise", "train.average_decay=0.9"])
    engine = build_engine(config, tiny_dataset(330).schema, world)

    def mean_over_copies():  # without making the copies agree
        shards = {name: w.local_shards() for name, w in engine.model.state_dict().items() if ".cat_2." in name}
        ((_, held),) = shards.items()
        by_rank = world.collectives.all_gather_object([shard.tensor.double().clone() for shard in held])
        return torch.stack([tensor for of_rank in by_rank for tensor in of_rank])

    first, second = mean_over_copies()
    average = first.clone()
    differed = []
    for step in range(1, 8):
        test_state.train_steps(engine, world, step, 1)
        engine.average.update()
        first, second = mean_over_copies()
        differed.append(not torch.equal(first, second))
        decay = min(0.9, step / (step + 10))
        average = decay * average + (1 - decay) * (first + second) / 2
    state = gather_state(engine, world.collectives)
    return differed, state["average.tables.cat_2.weight"], average


def test_averages_of_copies_follow_the_mean_of_the_copies():
    for differed, found, expected in run_ranks(averages_and_weights, 4):
        assert differed == [True, True, False, True, True, False, True]
        torch.testing.assert_close(found.double(), expected, rtol=0, atol=1e-6)


def averaged_while_applied(rank, world_size):
    """Predictions of copies that differ, of an evaluation in training and of the state that would be saved."""
    allow_copies_on_gloo()
    world = this_world()
    config = load_config(None, [*test_state.SMALL, *TRAINED, "train.average_decay=0.9"])
    job = test_state.job_of(config, world, 8)
    other = build_engine(config, tiny_dataset(330).schema, world)
    test_state.train_steps(job.engine, world, 1, 2)
    job.engine.average.update()
    result = job.evaluator.evaluate(job.validation)
    fill_state(other, gather_state(job.engine, world.collectives))
    again = Evaluator(other.stepper, other.average, world).evaluate(job.validation)
    return result, again


def test_what_is_evaluated_is_what_would_be_saved():
    for result, again in run_ranks(averaged_while_applied, 4):
        assert result == again


def test_on_cpu_a_line_says_that_copies_need_cuda(tmp_path):
    outcomes = run_command(["train", "data.train_samples=100", "sharding.group_size=1", f"run.dir={tmp_path}"], 2)
    assert_one_line_and_exit_code_2(outcomes, "sharding.group_size", "CUDA only, and the device is cpu; leave it out")
