"""evaluation.scores: every sample's score in order, on two ranks whose parts of a batch have gaps."""

import json

import pyarrow.parquet
import pytest
import torch
from sklearn.metrics import roc_auc_score

from dlrm.config import load_config
from dlrm.data.build import build_dataset
from tests.support.command import run_command

TEXT = """
run: {name: scored}
data: {kind: planted, train_samples: 2000, validation_samples: 305, test_samples: 501, rows: [50, 20], num_dense: 3,
  tasks: [click, like], task_missing: 0.2}
model: {embedding_dim: 4, bottom_mlp: [8, 4], top_mlp: [8, 1]}
train: {global_batch_size: 200}
evaluation: {global_batch_size: 200, scores: true}
distributed: {device: cpu}
logging: {tensorboard: false, progress: false}
checkpoint: {enabled: false}
"""


def test_the_files_hold_every_sample_in_order_and_give_the_figures_of_the_summary(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "scored.yaml").write_text(TEXT)
    outcomes = run_command(["train", "--config", "scored.yaml"], world_size=2)
    assert [outcome.exit_code for outcome in outcomes] == [0, 0], outcomes[0].stderr
    folder = tmp_path / "runs" / "scored"
    summary = json.loads((folder / "summary.json").read_text())
    dataset = build_dataset(load_config(tmp_path / "scored.yaml").data)
    for name, source in (("validation", dataset.validation), ("test", dataset.test)):
        table = pyarrow.parquet.read_table(folder / f"{name}_scores.parquet")
        assert table.column_names == ["logit.click", "label.click", "logit.like", "label.like"]
        labels_BT = source.read(torch.arange(source.num_samples)).labels_BT
        for task, labels_B in zip(("click", "like"), labels_BT.T, strict=True):
            stored = [float("nan") if label is None else label for label in table[f"label.{task}"].to_pylist()]
            torch.testing.assert_close(torch.tensor(stored), labels_B, equal_nan=True)
            known_B = ~labels_B.isnan()
            logits_B = torch.tensor(table[f"logit.{task}"].to_pylist())
            auc = roc_auc_score(labels_B[known_B], logits_B[known_B])
            assert summary["tasks"][task][name]["auc"] == pytest.approx(auc, abs=1e-9)
    assert not list(folder.glob("*.unfinished"))
