import csv
import io
import json
import math

import numpy as np
import pytest
import torch
from sklearn.metrics import average_precision_score, log_loss, roc_auc_score

from dlrm.distributed.collectives import OneProcess
from dlrm.errors import ConfigError
from dlrm.inference.evaluate.columns import find_columns
from dlrm.inference.evaluate.evaluation import Evaluation
from dlrm.inference.evaluate.sliced import SliceScores
from dlrm.inference.evaluate.slicing import find_slicings
from dlrm.inference.evaluate.written import table_text, write
from dlrm.run.secondary import require_writable
from dlrm.train.stepper import StepOutput
from tests.unit.inference.evaluate.test_slicing import SCHEMA, batches_of, samples_of


def scored(samples, logits_BT, columns):
    """Figures of slices, of batches that are scored two batches after they were taken, as a pipeline does."""
    slicings = find_slicings(find_columns(columns, SCHEMA), batches_of(samples), OneProcess(), values=4, buckets=5)
    watcher = SliceScores(slicings, SCHEMA.tasks)
    padded_BT = torch.cat([logits_BT, torch.zeros(64, 2)])
    ahead = []

    def score():
        batch, start = ahead.pop(0)
        logits = padded_BT[start : start + 64]
        zero = torch.zeros(())
        watcher.scored(StepOutput(zero, zero, logits, batch.labels, batch.weights))

    for k, batch in enumerate(watcher.batches(batches_of(samples))):
        ahead.append((batch, 64 * k))
        if len(ahead) > 2:
            score()
    while ahead:
        score()
    return watcher.results(OneProcess())


@pytest.fixture(scope="module")
def found():
    samples = samples_of(900, seed=3)
    logits_BT = torch.randn(900, 2, generator=torch.Generator().manual_seed(1)).round(decimals=1)
    return samples, logits_BT, scored(samples, logits_BT, ("item", "words:length", "price", "like"))


def test_every_figure_of_every_slice_is_that_of_scikit_learn_or_of_float64_by_hand(found):
    samples, logits_BT, results = found
    kept = samples.weights_B.numpy() > 0
    item = samples.ids_BS[:, 0].numpy()
    own = [result.slice for result in results if result.column == "item" and "others" not in result.slice]
    totals = {
        task: int((kept & ~np.isnan(samples.labels_BT[:, t].numpy())).sum()) for t, task in enumerate(SCHEMA.tasks)
    }
    checked = 0
    for one in results:
        if one.column != "item":
            continue
        task = SCHEMA.tasks.index(one.task)
        labels = samples.labels_BT[:, task].numpy()
        inside = ~np.isin(item, np.array(own, dtype=int)) if "others" in one.slice else item == int(one.slice)
        inside &= kept & ~np.isnan(labels)
        y, x = labels[inside], logits_BT[:, task].numpy()[inside].astype(np.float64)
        p, rate = 1 / (1 + np.exp(-x)), y.mean(dtype=np.float64)
        entropy = -(rate * math.log(rate) + (1 - rate) * math.log(1 - rate))
        assert (one.result.samples, one.result.positives) == (len(y), int(y.sum()))
        assert one.share == len(y) / totals[one.task]
        assert one.result.auc == pytest.approx(roc_auc_score(y, x), abs=1e-12)
        assert one.result.average_precision == pytest.approx(average_precision_score(y, x), abs=1e-12)
        assert one.result.log_loss == pytest.approx(log_loss(y, p), rel=1e-12)
        assert one.result.normalised_entropy == pytest.approx(log_loss(y, p) / entropy, rel=1e-12)
        assert one.result.calibration == pytest.approx(p.sum() / y.sum(), rel=1e-12)
        checked += 1
    assert checked == 2 * 5


def test_the_slices_of_a_column_have_all_samples_together(found):
    for column in ("item", "words:length", "price", "like"):
        for task in SCHEMA.tasks:
            shares = [one.share for one in found[2] if (one.column, one.task) == (column, task)]
            assert math.fsum(shares) == pytest.approx(1.0, abs=1e-12)


def test_by_its_own_label_a_task_has_one_class_in_each_slice_and_no_auc(found):
    of_like = [one for one in found[2] if (one.column, one.task) == ("like", "like")]
    assert {one.slice for one in of_like} == {"0", "1"}  # a missing one is no sample of the task
    assert all(one.result.auc is None for one in of_like)
    assert {one.slice for one in found[2] if (one.column, one.task) == ("like", "click")} == {"0", "1", "missing"}


def evaluation(slices):
    results = {one.task: one.result for one in slices[:2]}
    return Evaluation("/c", 7, True, "data", "test", 900, results, None, tuple(slices), {}, 2, "cpu")


def test_files_hold_all_figures_to_the_last_bit(found, tmp_path):
    written = evaluation(found[2])
    write(written, str(tmp_path / "out.json"))
    read = json.loads((tmp_path / "out.json").read_text())
    assert (read["step"], read["averaged"], read["tasks"]["click"]) == (7, True, found[2][0].result.to_dict())
    assert read["slices"] == [one.to_dict() for one in found[2]]
    rows = list(csv.DictReader(io.StringIO(table_text(written))))
    assert [row["column"] for row in rows[:3]] == ["", "", "item"]
    assert float(rows[2]["auc"]) == found[2][0].result.auc
    assert len(rows) == 2 + len(found[2])


def test_an_output_that_cannot_be_written_is_told_before_anything_is_scored(tmp_path):
    require_writable(str(tmp_path / "new" / "out.csv"))
    assert list((tmp_path / "new").iterdir()) == []
    (tmp_path / "folder.json").mkdir()
    with pytest.raises(ConfigError, match="is a folder"):
        require_writable(str(tmp_path / "folder.json"))
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match=r"output: .* cannot be written: File exists|Not a directory"):
        require_writable(str(tmp_path / "file" / "out.json"))
