"""Every sample once, positions, pauses, evaluation and early stopping, on one to four ranks."""

import threading

import pytest
import torch

from dlrm.config import load_config
from dlrm.data.source import Dataset, Source
from dlrm.metrics.tasks import deciding
from dlrm.run.console import Silent
from dlrm.run.recorder import NoRecorder
from dlrm.train.build import build_job
from dlrm.train.engine import build_engine
from dlrm.train.hooks import Hook
from dlrm.train.schedule import Schedule
from tests.support.ranks import run_ranks
from tests.support.training import this_world, tiny_source

SMALL = ["model.bottom_mlp=8,4", "model.embedding_dim=4", "model.top_mlp=8,1", "optim.dense.lr=0.01"]


class Seen(Hook):
    """Notes what was trained and where pauses were."""

    def __init__(self):
        self.samples_by_step = []
        self.positions = []
        self.pauses = []

    def on_step(self, position, output):
        self.samples_by_step.append(output.weights_BT.sum().item())
        self.positions.append(position)

    def on_pause(self, position):
        self.pauses.append(position.step)


class CountingSource(Source):
    """Counts how often each sample is read."""

    def __init__(self, source):
        self._source = source
        super().__init__(source.name, source.schema, source.num_samples)
        self.reads = torch.zeros(source.num_samples, dtype=torch.int64)
        self._lock = threading.Lock()

    def read(self, index_B):
        with self._lock:
            self.reads.index_add_(0, index_B, torch.ones_like(index_B))
        return self._source.read(index_B)

    def fingerprint(self):
        return self._source.fingerprint()


def fit(rank, world_size, sizes, options):
    config = load_config(None, [*SMALL, *options])
    sources = [CountingSource(tiny_source(n, seed=seed)) for seed, n in enumerate(sizes)]
    world = this_world()
    schedule = Schedule.of(config.train, seed=config.run.seed, num_samples=sizes[0])
    engine = build_engine(config, sources[0].schema, world)
    seen = Seen()
    job = build_job(
        config, Dataset(*sources), schedule, engine, world, NoRecorder(), Silent(), saving=lambda measured: seen
    )
    reason = job.trainer.fit()
    history = [(step, deciding(results).to_dict()) for step, results in job.measured.validation_history]
    return {
        "reason": reason,
        "trained": sum(seen.samples_by_step),
        "positions": seen.positions,
        "pauses": seen.pauses,
        "train_reads": sources[0].reads,
        "validation_reads": sources[1].reads,
        "history": history,
        "throughput_samples": job.measured.throughput.overall().samples,
        "throughput_steps": job.measured.throughput.overall().steps,
    }


@pytest.mark.parametrize("pipeline", ["sparse_dist", "base"])
@pytest.mark.parametrize(
    ("world_size", "samples", "batch"),
    [(1, 37, 8), (2, 37, 8), (3, 37, 8), (2, 1, 8), (4, 3, 8), (4, 33, 8), (3, 8, 8), (4, 5, 2)],
)
def test_an_epoch_trains_every_sample_exactly_once(world_size, samples, batch, pipeline):
    options = [f"train.global_batch_size={batch}", f"train.pipeline={pipeline}"]
    ranks = run_ranks(fit, world_size, (samples, 0, 0), options)
    assert sum(rank["trained"] for rank in ranks) == samples
    assert torch.equal(sum(rank["train_reads"] for rank in ranks), torch.ones(samples, dtype=torch.int64))
    for rank in ranks:
        assert rank["positions"][-1].samples == samples
        assert rank["positions"][-1].step == -(-samples // batch)
        assert rank["throughput_samples"] == samples


@pytest.mark.parametrize("pipeline", ["sparse_dist", "base"])
@pytest.mark.parametrize(("world_size", "samples"), [(1, 37), (2, 33), (3, 3)])
def test_in_micro_batches_too_and_positions_count_global_batches(world_size, samples, pipeline):
    options = ["train.global_batch_size=8", "train.accumulation_steps=4", f"train.pipeline={pipeline}"]
    ranks = run_ranks(fit, world_size, (samples, 5, 0), [*options, "evaluation.every_steps=2"])
    assert torch.equal(sum(rank["train_reads"] for rank in ranks), torch.ones(samples, dtype=torch.int64))
    steps = -(-samples // 8)
    for rank in ranks:
        assert [position.samples for position in rank["positions"]] == [
            min(8 * k, samples) for k in range(1, steps + 1)
        ]
        assert rank["history"] == ranks[0]["history"]
        assert {step for step, _ in rank["history"]} == {*range(2, steps, 2), steps}


def test_epochs_train_every_sample_as_often_and_positions_count_trained_batches():
    ranks = run_ranks(fit, 2, (21, 5, 0), ["train.global_batch_size=4", "train.epochs=3"])
    assert torch.equal(sum(rank["train_reads"] for rank in ranks), torch.full((21,), 3))
    positions = ranks[0]["positions"]
    assert positions == ranks[1]["positions"]
    assert [(p.epoch, p.batch) for p in positions[4:8]] == [(0, 5), (1, 0), (1, 1), (1, 2)]
    assert [p.epoch_ended for p in positions] == [step % 6 == 0 for step in range(1, 19)]
    assert [p.samples for p in positions[4:7]] == [20, 21, 25]


def test_drop_last_leaves_out_the_samples_that_do_not_fill_a_batch():
    ranks = run_ranks(fit, 2, (21, 0, 0), ["train.global_batch_size=4", "train.drop_last=true"])
    assert sum(rank["trained"] for rank in ranks) == 20


@pytest.mark.parametrize("world_size", [1, 3])
def test_evaluation_scores_every_sample_once_and_gives_the_same_on_every_rank(world_size):
    options = ["train.global_batch_size=8", "evaluation.global_batch_size=5", "evaluation.every_steps=2"]
    ranks = run_ranks(fit, world_size, (40, 13, 0), options)
    assert torch.equal(sum(rank["validation_reads"] for rank in ranks), torch.full((13,), 3))
    steps = [step for step, _ in ranks[0]["history"]]
    assert steps == [2, 4, 5]
    for rank in ranks:
        assert rank["history"] == ranks[0]["history"]
        assert rank["pauses"] == [2, 4, 5]
        assert all(result["samples"] == 13 for _, result in rank["history"])


def test_evaluations_do_not_change_the_training():
    often = run_ranks(fit, 2, (40, 13, 0), ["train.global_batch_size=8", "evaluation.every_steps=1"])
    once = run_ranks(fit, 2, (40, 13, 0), ["train.global_batch_size=8"])
    assert often[0]["history"][-1] == once[0]["history"][-1]


def test_training_stops_at_max_steps_or_at_the_target_auc():
    ranks = run_ranks(fit, 2, (400, 50, 0), ["train.global_batch_size=8", "train.max_steps=7"])
    assert ranks[0]["reason"] == "train.max_steps reached"
    assert ranks[0]["positions"][-1].step == 7
    options = ["train.global_batch_size=8", "train.epochs=50", "evaluation.every_steps=20", "evaluation.target_auc=0.6"]
    ranks = run_ranks(fit, 2, (400, 200, 0), options)
    assert {rank["reason"] for rank in ranks} == {"evaluation.target_auc reached"}
    *before, (step, last) = ranks[0]["history"]
    assert last["auc"] >= 0.6
    assert all(result["auc"] < 0.6 for _, result in before)
    assert ranks[0]["positions"][-1].step == step
