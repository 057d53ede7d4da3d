import json
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from dlrm.config import Config, load_config
from dlrm.data.fingerprint import FileFingerprint
from dlrm.distributed.collectives import OneProcess
from dlrm.distributed.world import RankInfo, World
from dlrm.errors import CheckpointError, DivergedError
from dlrm.metrics.binary import BinaryResult
from dlrm.metrics.throughput import ThroughputMeter
from dlrm.train.checkpointing.metadata import MetadataOfRun
from dlrm.train.checkpointing.train_state import TrainingData, TrainState, config_changes, order_differences
from dlrm.train.schedule import Position
from dlrm.train.standard_hooks import Measured

WORLD = World(rank_info=RankInfo(), device=torch.device("cpu"), backend="gloo", collectives=OneProcess())
SAMPLES = 1000
DATA = TrainingData(SAMPLES)
AUCS = {"click": 0.75, "like": 0.625}
CONFIG = load_config(None, ["train.global_batch_size=100", "data.train_samples=1000"])


def metadata_of(measured, config=CONFIG, position=None):
    of_run = MetadataOfRun(config, DATA, WORLD, placements=[], measured=measured, versions={})
    return of_run(position or Position(batch=3, step=3, samples=300), "every 3 steps", None)


def saved(metadata):
    return TrainState.of(SimpleNamespace(path="step_00000003", step=3, metadata=metadata))


def test_metadata_that_were_saved_give_position_and_figures_back():
    measured = Measured(ThroughputMeter(), last_loss=0.5)
    measured.loss_sums_2T += torch.tensor([[1.5], [3.0]])
    found, into = saved(metadata_of(measured)), Measured(ThroughputMeter())
    assert found.position_in(CONFIG, SAMPLES, "") == Position(batch=3, step=3, samples=300)
    found.restore(into, leader=True)
    assert (into.last_loss, into.loss_sums_2T.tolist(), into.unrecorded) == (0.5, [[1.5], [3.0]], True)


def test_figures_of_several_tasks_come_back_and_those_of_other_tasks_do_not():
    figures = dict.fromkeys(BinaryResult.__dataclass_fields__)
    results = {
        task: BinaryResult(**{**figures, "samples": 9, "positives": 3, "auc": auc}) for task, auc in AUCS.items()
    }
    sums_22 = torch.tensor([[1.5, 0.5], [3.0, 2.0]], dtype=torch.float64)
    measured = Measured(ThroughputMeter(), tuple(AUCS), loss_sums_2T=sums_22, validation_history=[(2, results)])
    into = Measured(ThroughputMeter(), tuple(AUCS), loss_sums_2T=torch.zeros(2, 2, dtype=torch.float64))
    found = saved(metadata_of(measured))
    found.restore(into, leader=True)
    assert into.validation_history == [(2, results)]
    assert (into.validation, into.validation_step) == (results, 2)
    assert torch.equal(into.loss_sums_2T, sums_22)
    of_one_task = Measured(ThroughputMeter())
    found.restore(of_one_task, leader=True)
    assert (of_one_task.validation_history, of_one_task.validation, of_one_task.unrecorded) == ([], None, False)
    assert not of_one_task.loss_sums_2T.any()


@pytest.mark.parametrize("loss", [float("nan"), float("inf")])
def test_a_loss_that_is_no_longer_finite_is_said_to_be_instead_of_saved(loss):
    measured = Measured(ThroughputMeter())
    measured.loss_sums_2T[0] = loss
    with pytest.raises(DivergedError, match=r"step 3: the training loss .* has diverged"):
        metadata_of(measured)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("position", {"epoch": 0, "batch": -3, "step": 3, "samples": 300, "epoch_ended": False}),
        ("position", {"epoch": 0, "batch": 3, "step": 2**63, "samples": 300, "epoch_ended": False}),
        ("metrics", {"training_time_s": float("inf")}),
        ("metrics", {"loss_sum": "much"}),
        ("metrics", {"loss_sum": [1.0, 2.0], "loss_samples": [1.0]}),
        ("metrics", {"validation": [[3, {"samples": None, "positives": 0}]]}),
        ("metrics", {"validation": [[3, {"samples": 1, "positives": 0, "log_loss": 10**4000}]]}),
        ("best", {"metric": "auc", "value": float("nan"), "step": 3}),
        ("config", ["no", "sections"]),
    ],
)
def test_metadata_that_make_no_sense_are_refused_in_one_line(name, value):
    metadata = metadata_of(Measured(ThroughputMeter()))
    with pytest.raises(CheckpointError, match=rf"\Astep_00000003: facts\.{name}.*\Z"):
        saved({**metadata, name: value})


@pytest.mark.parametrize(
    "position", [Position(batch=3, step=3, samples=299), Position(epoch=1, step=3, samples=300, epoch_ended=True)]
)
def test_a_position_that_the_order_of_samples_does_not_have_is_refused(position):
    found = saved(metadata_of(Measured(ThroughputMeter()), position=position))
    with pytest.raises(CheckpointError, match="none of an epoch of 10 batches"):
        found.position_in(CONFIG, SAMPLES, "step_00000003")


def test_what_differs_is_named_in_printable_characters():
    metadata = metadata_of(Measured(ThroughputMeter()))
    metadata["order"] = {**metadata["order"], "\x1b[2J": "\x1b]0;title\a"}
    metadata["config"] = {**metadata["config"], "model": {"a\nb": "c\nd" * 100}}
    found = saved(metadata)
    said = [*order_differences(found, CONFIG, DATA), *config_changes(found, Config())]
    assert any("a\\nb" in line for line in said)
    assert all(line.isprintable() and len(line) < 250 for line in said)


def test_an_option_that_is_younger_than_the_checkpoint_had_its_default():
    metadata = metadata_of(Measured(ThroughputMeter()))
    metadata["config"] = json.loads(json.dumps(metadata["config"]))
    del metadata["config"]["model"]["kind"]
    assert config_changes(saved(metadata), CONFIG) == []
    other = load_config(None, ["train.global_batch_size=100", "data.train_samples=1000", "model.kind=deepfm"])
    assert "model.kind 'dlrm' -> 'deepfm'" in config_changes(saved(metadata), other)


def test_how_many_copies_of_tables_learn_is_told_and_where_tables_are_is_not():
    found = saved(json.loads(json.dumps(metadata_of(Measured(ThroughputMeter())))))
    options = [
        "sharding.group_size=8",
        "sharding.sync_steps=4",
        "sharding.types=row_wise",
        "sharding.inter_host_sync=true",
    ]
    now = load_config(None, ["train.global_batch_size=100", "data.train_samples=1000", *options])
    assert config_changes(found, now) == ["sharding.group_size None -> 8", "sharding.sync_steps 1 -> 4"]


FILES = (FileFingerprint("day_0", 100, "aa"), FileFingerprint("day_1", 50, "bb", rows="0 .. 9"))


def test_other_training_data_are_a_difference_unless_they_are_meant():
    of_run = MetadataOfRun(CONFIG, TrainingData(SAMPLES, FILES), WORLD, [], Measured(ThroughputMeter()), versions={})
    found = saved(json.loads(json.dumps(of_run(Position(batch=3, step=3, samples=300), "", None))))
    assert order_differences(found, CONFIG, TrainingData(SAMPLES, FILES)) == []
    other = TrainingData(SAMPLES, (FILES[0], replace(FILES[1], sample="cc")))
    (said,) = order_differences(found, CONFIG, other)
    assert said == ("the training data are not those it was saved with: day_1 has other content in as many bytes")
    meant = load_config(None, ["train.global_batch_size=100", "data.train_samples=1000", "resume.changed_data=true"])
    assert order_differences(found, meant, other) == []
    assert config_changes(found, meant) == []


def test_a_checkpoint_that_knows_no_files_fits_any():
    metadata = metadata_of(Measured(ThroughputMeter()))
    del metadata["data_files"]
    assert order_differences(saved(metadata), CONFIG, TrainingData(SAMPLES, FILES)) == []


@pytest.mark.parametrize("changes", [["data.teacher=linear"], ["data.seed=1"], ["data.sample_weights=true"]])
def test_data_generated_by_other_options_are_a_difference_unless_they_are_meant(changes):
    found = saved(json.loads(json.dumps(metadata_of(Measured(ThroughputMeter())))))
    words = ["train.global_batch_size=100", "data.train_samples=1000", *changes]
    (said,) = order_differences(found, load_config(None, words), DATA)
    name, value = changes[0].split("=")
    assert f"those it was saved with: {name} is " in said
    assert said.lower().replace("'", "").endswith(f"in the checkpoint, {value} here")
    assert order_differences(found, load_config(None, [*words, "resume.changed_data=true"]), DATA) == []
    fewer = load_config(None, [*words[:2], "data.validation_samples=7", "data.test_samples=0"])
    assert order_differences(found, fewer, DATA) == []


def test_weights_that_are_switched_on_are_a_difference_and_other_options_of_files_are_none():
    words = ["train.global_batch_size=100", "data={kind: parquet, path: a, dense: [], sparse: [bag], rows: 9}"]
    metadata = metadata_of(Measured(ThroughputMeter()), load_config(None, words))
    found = saved(json.loads(json.dumps(metadata)))
    assert order_differences(found, load_config(None, [*words, "data.cache_gib=2", "data.path=b"]), DATA) == []
    (said,) = order_differences(found, load_config(None, [*words, "data.sample_weight=w"]), DATA)
    assert said.endswith("data.sample_weight is None in the checkpoint, 'w' here")
    (said,) = order_differences(found, load_config(None, [*words, "data.id_weights={bag: w}"]), DATA)
    assert said.endswith("data.id_weights.bag is None in the checkpoint, 'w' here")
