"""Whatever is in a JSON file that the program reads, a command ends with its work done or with one line."""

import json
import os
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from dlrm.checkpoint.manifest import committed_text
from dlrm.checkpoint.stored import open_checkpoint
from dlrm.command.arguments import parse
from dlrm.command.run import run
from dlrm.config import load_config
from dlrm.data.build import build_dataset
from dlrm.data.packed.manifest import parse_manifest
from dlrm.dataset_tools.inspect.figures import Rate, _missing, reserved_ids
from dlrm.errors import DlrmError
from dlrm.metrics.throughput import ThroughputMeter
from dlrm.train.checkpointing.train_state import TrainingData, TrainState, config_changes, order_differences
from dlrm.train.standard_hooks import Measured
from tests.unit.checkpoint.delta.deltas import normal_state, save_delta, stepped
from tests.unit.checkpoint.states import cut_up, save_ranks
from tests.unit.checkpoint.tools.runs import a_state, save
from tests.unit.dataset_tools.inspect.packed_folders import SEPARATE, small
from tests.unit.mutations import mutations

SAMPLED = int(os.environ.get("DLRM_FUZZ", "6"))
"""Of the mutations of a document, drawn anew for each test; all of them take minutes (DLRM_FUZZ=100000)."""


def sample(document, seed: int) -> Iterator[tuple[str, bytes]]:
    every = list(mutations(document))
    yield from random.Random(seed).sample(every, min(SAMPLED, len(every)))


def assert_a_line_at_most(what: str, action: Callable[[], object]) -> None:
    lines: list[str] = []
    try:
        action()
    except DlrmError as error:
        lines = str(error).splitlines()
    except Exception as error:
        raise AssertionError(f"{what} ends in a traceback") from error
    assert len(lines) <= 1 or "does not fit in" in lines[0], (what, lines)
    assert all(line.isprintable() and len(line) < 1500 for line in lines), (what, lines)


def command(*words: object) -> Callable[[], object]:
    return lambda: run(parse([*map(str, words)]).config())


def test_of_dataset_json(tmp_path, monkeypatch):
    monkeypatch.setattr("dlrm.dataset_tools.inspect.job.draw", lambda figures, folder: [folder / "x.png"])
    made = SEPARATE | {"sources": [{"name": "day_0", "bytes": 9, "rows": 40, "missing": {"int_0": 3, "cat_1": 2}}]}
    folder = small(tmp_path / "data", parts=2, rows=40, preprocessing=made)
    path = folder / "dataset.json"
    document = json.loads(path.read_text())
    data = load_config(None, ["data.kind=packed", f"data.path={folder}"]).data
    for what, text in sample(document, seed=1):
        path.write_bytes(text)
        assert_a_line_at_most(what, command("inspect", folder))
        assert_a_line_at_most(what, command("inspect", folder, "--verify"))
        assert_a_line_at_most(what, lambda: build_dataset(data))


def test_of_all_that_dataset_json_says(tmp_path):
    """Every mutation, and what inspect takes from the record of how the data were made."""
    made = SEPARATE | {"sources": [{"name": "day_0", "bytes": 9, "rows": 40, "missing": {"int_0": 3, "cat_1": 2}}]}
    folder = small(tmp_path, parts=1, rows=10, preprocessing=made)
    document = json.loads((folder / "dataset.json").read_text())
    read = []

    def look(text: bytes) -> None:
        manifest = parse_manifest(text, "dataset.json")
        reserved_ids(manifest)
        read.append(_missing(SimpleNamespace(manifest=manifest), "int_0"))

    for what, text in mutations(document):
        assert_a_line_at_most(what, lambda text=text: look(text))
    assert Rate(3 / 40, exact=True) in read
    assert None in read


def commit(folder: Path, text: bytes) -> None:
    (folder / "manifest.json").write_bytes(text)
    (folder / "COMMITTED").write_bytes(committed_text(text))


def checkpoint_commands(folder: Path, output: Path) -> list[Callable[[], object]]:
    words = [
        ("list",),
        ("show",),
        ("show", "--config"),
        ("verify",),
        ("diff", folder),
        ("export", "--overwrite", output),
    ]
    return [
        command("checkpoint", name, folder, *rest)
        if name != "export"
        else command("checkpoint", name, folder, output, *rest[:1])
        for name, *rest in words
    ]


@pytest.mark.parametrize("kind", ["full", "increment"])
def test_of_a_manifest(tmp_path, kind):
    if kind == "full":
        folder = save(tmp_path / "run", 10, a_state(shapes={"tables.a.weight": ((4, 2), "float32")}), world_size=1)
    else:
        state, rows = normal_state(0), {"a": [1, 2], "b": [0]}
        base = save_ranks(tmp_path / "run", 5, cut_up(state, 0, 1))
        folder = save_delta(tmp_path / "run", 10, stepped(state, 10, rows), rows, base=base, parent=base, bits=8)
    document = json.loads((folder / "manifest.json").read_text())
    for what, text in sample(document, seed=2):
        commit(folder, text)
        for action in checkpoint_commands(folder, tmp_path / "out.safetensors"):
            assert_a_line_at_most(what, action)


def test_of_the_metadata_that_training_goes_on_from(tmp_path):
    config = load_config(None, [])
    metadata = {
        "position": {"epoch": 0, "batch": 10, "step": 10, "samples": 100, "epoch_ended": False},
        "order": {"data.samples": 1000, "run.seed": 0},
        "metrics": {"training_time_s": 1.0, "loss_sum": 2.0, "validation": [[5, {"samples": 3, "positives": 1}]]},
        "config": {"run": {"seed": 0}, "optim": {"lr": 0.1}},
        "best": {"metric": "auc", "value": 0.5, "step": 5},
    }
    folder = save(tmp_path, 10, a_state(shapes={"tables.a.weight": ((4, 2), "float32")}), world_size=1, **metadata)
    document = json.loads((folder / "manifest.json").read_text())

    def go_on() -> None:
        saved = TrainState.of(open_checkpoint(folder))
        if saved is not None:
            order_differences(saved, config, TrainingData(1000))
            config_changes(saved, config)
            saved.restore(Measured(ThroughputMeter()), leader=True)
            saved.position_in(config, 1000, "x")

    for what, text in sample(document["facts"], seed=3):
        commit(folder, json.dumps({**document, "facts": "@"}).encode().replace(b'"@"', text))
        assert_a_line_at_most(what, go_on)
