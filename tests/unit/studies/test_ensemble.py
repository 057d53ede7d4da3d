"""Ensembles against the mean of probabilities by numpy and scikit-learn."""

from types import SimpleNamespace

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
from sklearn.metrics import accuracy_score, log_loss, roc_auc_score

from dlrm.config import Config
from dlrm.errors import DataError
from dlrm.studies import ensemble
from dlrm.studies.ensemble import Ensembles, averaged_scores

WEIGHTED = {
    "kind": "parquet", "path": "nowhere", "dense": ["a"], "sparse": ["b"], "rows": [3], "sample_weight": "w",
}  # fmt: skip


def write(path, logits_B, labels_B, weights_B=None):
    labels = pyarrow.array(labels_B, pyarrow.float32(), from_pandas=True)
    weights = {} if weights_B is None else {"weight": pyarrow.array(weights_B)}
    pyarrow.parquet.write_table(pyarrow.table({"logit": pyarrow.array(logits_B), "label": labels, **weights}), path)
    return path


@pytest.fixture
def drawn():
    generator = np.random.default_rng(1)
    logits_MB = generator.normal(-1, 2, (3, 1000)).astype(np.float32)
    labels_B = (generator.random(1000) < 0.3).astype(np.float32)
    labels_B[::10] = np.nan
    return logits_MB, labels_B


def test_the_mean_probability_is_scored_and_rows_without_a_label_are_left_out(tmp_path, monkeypatch, drawn):
    monkeypatch.setattr(ensemble, "_ROWS", 300)  # the last part has fewer
    logits_MB, labels_B = drawn
    found = averaged_scores([write(tmp_path / f"{m}.parquet", row, labels_B) for m, row in enumerate(logits_MB)])
    kept_B = ~np.isnan(labels_B)
    mean_B = (1 / (1 + np.exp(-logits_MB.astype(np.float64)))).mean(0)[kept_B]
    truth_B = labels_B[kept_B]
    assert found["auc"] == pytest.approx(roc_auc_score(truth_B, mean_B), abs=1e-9)
    assert found["log_loss"] == pytest.approx(log_loss(truth_B, mean_B), abs=1e-6)
    assert found["accuracy"] == pytest.approx(accuracy_score(truth_B, mean_B > 0.5))
    assert found["calibration"] == pytest.approx(mean_B.sum() / truth_B.sum(), rel=1e-6)
    assert found["auc"] > max(roc_auc_score(truth_B, row[kept_B]) for row in logits_MB) - 0.1


def test_the_mean_of_weighted_runs_is_scored_by_the_samples_weights(tmp_path, drawn):
    logits_MB, labels_B = drawn
    weights_B = np.random.default_rng(2).integers(0, 9, 1000).astype(np.float32) / 4
    files = [write(tmp_path / f"{m}.parquet", row, labels_B, weights_B) for m, row in enumerate(logits_MB)]
    members = [
        SimpleNamespace(
            run_folder=tmp_path / str(m),
            own=Config(evaluation={"weighted": True}, data=WEIGHTED),
            result=lambda: {"model_bytes": 4.0, "training_time_s": 1.0},
        )
        for m in range(3)
    ]
    for member, file in zip(members, files, strict=True):
        member.run_folder.mkdir()
        file.rename(member.run_folder / "validation_scores.parquet")
    found = Ensembles().figures(members)
    kept_B = ~np.isnan(labels_B)
    mean_B = (1 / (1 + np.exp(-logits_MB.astype(np.float64)))).mean(0)[kept_B]
    expected = log_loss(labels_B[kept_B], mean_B, sample_weight=weights_B[kept_B])
    assert found["validation", "log_loss"] == pytest.approx(expected, abs=1e-6)
    assert expected != pytest.approx(log_loss(labels_B[kept_B], mean_B), abs=1e-3)
    with pytest.raises(DataError, match="has no weights of samples"):
        averaged_scores([write(tmp_path / "old.parquet", logits_MB[0], labels_B)], weighted=True)


def test_scores_of_other_samples_are_refused(tmp_path, drawn):
    logits_MB, labels_B = drawn
    first = write(tmp_path / "a.parquet", logits_MB[0], labels_B)
    with pytest.raises(DataError, match="has not as many rows"):
        averaged_scores([first, write(tmp_path / "b.parquet", logits_MB[1, :5], labels_B[:5])])
    with pytest.raises(DataError, match="other labels"):
        averaged_scores([first, write(tmp_path / "c.parquet", logits_MB[1], labels_B[::-1])])
    with pytest.raises(DataError, match="cannot be read"):
        averaged_scores([first, tmp_path / "none.parquet"])
