"""Days in the order of time: each is scored before it is trained on, whatever the ranks, and after a resume."""

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from sklearn.metrics import roc_auc_score

from tests.support.command import run_command

SIZES = (300, 210, 0, 250, 120)  # days 0 .. 3 are for training


def write_days(folder):
    """Labels follow the first id, otherwise on each day, so that a score shows what was trained before it."""
    folder.mkdir()
    draw = np.random.default_rng(2)
    for day, rows in enumerate(SIZES):
        ids_MF = np.stack([draw.integers(0, size, rows) for size in (20, 7)], axis=1).astype(np.int32)
        clicks_M = draw.random(rows) < np.where((ids_MF[:, 0] + day) % 4 < 2, 0.85, 0.1)
        np.save(folder / f"day_{day}_dense.npy", draw.standard_normal((rows, 2)).astype(np.float32))
        np.save(folder / f"day_{day}_sparse.npy", ids_MF)
        np.save(folder / f"day_{day}_labels.npy", clicks_M.astype(np.int32)[:, None])


OPTIONS = [
    *("data.kind=packed", "data.rows=20,7", "data.split={train: [day_0..day_3], test: [day_4]}", "train.by_day=true"),
    *("model.bottom_mlp=[8,4]", "model.embedding_dim=4", "model.top_mlp=[8,1]", "train.global_batch_size=64"),
    *("optim.sparse.lr=0.1", "logging.every_steps=1", "logging.tensorboard=false", "logging.progress=false"),
]


def run(folder, name, world_size, *options):
    data = [f"data.path={folder / 'packed'}", f"run.dir={folder}", f"run.name={name}"]
    outcomes = run_command(["train", *OPTIONS, *data, *options], world_size)
    assert [outcome.exit_code for outcome in outcomes] == [0] * world_size, outcomes[0].stderr
    lines = (folder / name / "metrics.jsonl").read_text().splitlines()
    entries = [json.loads(line) for line in lines]
    timeless = [
        {key: value for key, value in entry.items() if key not in ("samples_per_s", "training_time_s")}
        for entry in entries
    ]
    return timeless, json.loads((folder / name / "summary.json").read_text())


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("days")
    write_days(folder / "packed")
    return folder


@pytest.fixture(scope="module")
def whole(folder):
    return run(folder, "whole", 1)


def test_days_are_scored_before_they_are_trained_on_and_never_after(folder, whole):
    """The score of a day is that of a run which has trained the days before it and no more."""
    entries, summary = whole
    days = [entry for entry in entries if entry["kind"] == "next_day"]
    assert [(entry["day"], entry["step"], entry["samples"]) for entry in days] == [("day_1", 5, 210), ("day_3", 9, 250)]
    assert summary["steps"] == 5 + 4 + 4
    assert [(found["day"], found["step"], found["auc"]) for found in summary["days"]] == [
        (entry["day"], entry["step"], entry["auc"]) for entry in days
    ]
    assert "day_3, before it was trained on" in (folder / "whole" / "report.html").read_text()
    run(folder, "until", 1, "train.max_steps=9")
    scores = folder / "scored.json"
    config = [f"data.path={folder / 'packed'}", "--data.split", "{train: [day_0], test: [day_3]}", "train.by_day=false"]
    (outcome,) = run_command(["evaluate", str(folder / "until"), *config, "--output", str(scores)])
    assert outcome.exit_code == 0, outcome.stderr
    found = json.loads(scores.read_text())["tasks"]["label"]
    assert (found["auc"], found["log_loss"]) == (days[1]["auc"], pytest.approx(days[1]["log_loss"], rel=1e-12))
    ids_MF, labels = (np.load(folder / "packed" / f"day_3_{kind}.npy") for kind in ("sparse", "labels"))
    leaked = roc_auc_score(labels[:, 0], (ids_MF[:, 0] + 3) % 4 < 2)
    assert days[1]["auc"] < 0.6 < 0.8 < leaked


@pytest.mark.parametrize("world_size", [2, pytest.param(3, marks=pytest.mark.slow)])
def test_ranks_change_nothing(folder, whole, world_size):
    found, _ = run(folder, f"on_{world_size}", world_size)
    for entry, right in zip(found, whole[0], strict=True):
        numbers = {key for key, value in right.items() if isinstance(value, int | float)}
        assert {key: entry[key] for key in numbers} == {key: pytest.approx(right[key], rel=1e-4) for key in numbers}
        assert {key: entry[key] for key in entry if key not in numbers} == {
            key: right[key] for key in right if key not in numbers
        }


@pytest.mark.parametrize("stop", [5, 7])
def test_a_run_that_is_stopped_between_days_or_within_one_goes_on_to_the_bit(folder, whole, stop):
    name = f"stopped_{stop}"
    run(folder, name, 1, f"train.max_steps={stop}")
    found, summary = run(folder, name, 1, "--resume", "auto")
    assert found == whole[0]
    assert summary["days"] == whole[1]["days"]


def test_accumulated_micro_batches_do_not_cross_days(folder):
    found, summary = run(folder, "accumulated", 2, "train.accumulation_steps=4", "optim.sparse.kind=sgd")
    assert summary["steps"] == 13
    assert [entry["samples"] for entry in found if entry["kind"] == "train"][4::4] == [300, 510, 760]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["train.epochs=2"], "by_day goes through the days once"),
        (["data.split={train: [day_0]}"], "train.by_day: needs training data in two parts or more"),
    ],
)
def test_what_has_no_days_is_refused(folder, tmp_path, options, said):
    data = [f"data.path={folder / 'packed'}", f"run.dir={tmp_path}"]
    (outcome,) = run_command(["train", *OPTIONS, *data, *options])
    assert outcome.exit_code == 2
    assert said in outcome.stderr


def test_weights_text_and_days_work_together_without_dense_features(tmp_path):
    """On 1 and 2 ranks and resumed; an export says what it cannot take."""
    draw = np.random.default_rng(5)
    for day, rows in enumerate((90, 70, 50)):
        towns = draw.choice(["ulm", "bern", "rom", "oslo"], rows)
        bags = [draw.integers(0, 9, draw.integers(0, 4)).tolist() for _ in range(rows)]
        values = {
            "label": (draw.random(rows) < np.where(towns == "ulm", 0.8, 0.2)).astype(np.int32),
            "town": towns,
            "bag": bags,
            "weight": draw.integers(1, 9, rows) / 4,
            "bag_weight": [draw.random(len(bag)).tolist() for bag in bags],
        }
        pq.write_table(pa.table(values), tmp_path / f"{'test' if day == 2 else 'train'}_{day}.parquet")
    data = {
        "kind": "parquet", "path": str(tmp_path), "dense": [], "sparse": ["town", "bag"], "rows": [6, 9], "hotness": [1, 3],
        "sample_weight": "weight", "id_weights": {"bag": "bag_weight"},
        "vocabulary": {"columns": ["town"], "folder": str(tmp_path)},
    }  # fmt: skip
    options = [
        *("train", f"data={data}", "model.embedding_dim=4", "model.top_mlp=[8,1]", "model.pooling=mean"),
        *("train.by_day=true", "train.global_batch_size=16", "evaluation.weighted=true", "sharding.types=row_wise"),
        *("logging.every_steps=4", "logging.tensorboard=false", "logging.progress=false", f"run.dir={tmp_path}"),
    ]

    def figures(name, world_size, *more):
        outcomes = run_command([*options, f"run.name={name}", *more], world_size)
        assert [outcome.exit_code for outcome in outcomes] == [0] * world_size, outcomes[0].stderr
        summary = json.loads((tmp_path / name / "summary.json").read_text())
        return [summary["train"]["loss"], *(summary["test"][key] for key in ("log_loss", "weight", "samples"))], [
            (found["day"], found["step"], found["samples"], pytest.approx(found["log_loss"], rel=1e-5))
            for found in summary["days"]
        ]

    expected, days = figures("one", 1)
    assert [day[:3] for day in days] == [("train_1.parquet", 6, 70)]
    found, of_two = figures("two", 2)
    assert (found, of_two) == (pytest.approx(expected, rel=1e-5), days)
    figures("parts", 1, "train.max_steps=8")
    assert figures("parts", 1, "--resume", "auto") == (expected, days)
    (outcome,) = run_command(["export", str(tmp_path / "one"), "--output", str(tmp_path / "export")])
    assert outcome.exit_code == 2
    assert "data.id_weights: gives weights to the ids of bag, which an export cannot take" in outcome.stderr
    options[1] = f"data={ {**data, 'id_weights': {}} }"
    (outcome,) = run_command([*options, "run.name=text", "train.max_steps=1"])
    assert outcome.exit_code == 0, outcome.stderr
    (outcome,) = run_command(["export", str(tmp_path / "text"), "--output", str(tmp_path / "export")])
    assert outcome.exit_code == 2
    assert "data.vocabulary.columns: names town, and an export takes ids" in outcome.stderr
