"""The file of scores, and that the evaluation outlives it."""

import errno
from contextlib import contextmanager
from pathlib import Path

import pyarrow.parquet
import pytest
import torch

from dlrm.data.order import SampleOrder
from dlrm.distributed.collectives import OneProcess
from dlrm.distributed.world import RankInfo, World
from dlrm.train import scores
from dlrm.train.scores import KeptScores
from dlrm.train.stepper import StepOutput

WORLD = World(RankInfo(), torch.device("cpu"), "gloo", OneProcess())


@contextmanager
def on_a_full_device(path, *, durable):
    with Path("/dev/full").open("wb", buffering=0) as file:
        yield file


def kept(path, said, *, weighted=False):
    """Scores of five samples in batches of 4, the last with padding; sample 1 was skipped, sample 2 lacks a label."""
    logits_BT = torch.arange(16.0).reshape(8, 2)
    labels_BT = torch.tensor([[1.0, 0.0]] * 8)
    weights_BT = torch.tensor([[0.5, 0.5], [0.0, 0.0], [0.0, 2.0], [1.0, 1.0], [3.0, 3.0], *[[0.0, 0.0]] * 3])
    order = SampleOrder(5, global_batch_size=4)
    with KeptScores(path, order, ("a", "b"), WORLD, said.append, weighted=weighted) as watcher:
        for start in (0, 4):
            parts = (tensor[start : start + 4] for tensor in (logits_BT, labels_BT, weights_BT))
            watcher.scored(StepOutput(torch.zeros(()), torch.zeros(2), *parts))


def test_weights_are_kept_where_figures_are_made_with_them(tmp_path):
    said = []
    kept(tmp_path / "s.parquet", said, weighted=True)
    assert pyarrow.parquet.read_table(tmp_path / "s.parquet").to_pydict() == {
        "logit.a": [0, 2, 4, 6, 8],
        "label.a": [1, None, None, 1, 1],
        "logit.b": [1, 3, 5, 7, 9],
        "label.b": [0, None, 0, 0, 0],
        "weight": [0.5, 0, 2, 1, 3],
    }
    kept(tmp_path / "s.parquet", said)
    assert pyarrow.parquet.read_table(tmp_path / "s.parquet").column_names[-1] == "label.b"
    assert said == []


@pytest.mark.parametrize("fails", ["open", "write", "write_batch", "close"])
def test_a_disk_that_is_full_becomes_a_line_and_the_evaluation_goes_on_without_a_file(tmp_path, monkeypatch, fails):
    def full(*arguments, **options):
        raise OSError(errno.ENOSPC, "No space left on device")

    path, said = tmp_path / "s.parquet", []
    path.write_bytes(b"of an earlier process")
    if fails == "open":
        monkeypatch.setattr(scores, "written_beside", full)
    elif fails == "write":
        monkeypatch.setattr(scores, "written_beside", on_a_full_device)
    else:
        monkeypatch.setattr(pyarrow.parquet.ParquetWriter, fails, full)
    kept(path, said)
    assert said == [f"warning: {path}: No space left on device; not written, the run goes on"]
    assert list(tmp_path.iterdir()) == []
