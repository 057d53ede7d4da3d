"""Parts of models with several tasks, and how files are divided."""

import json
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from sklearn.metrics import roc_auc_score

from dlrm.errors import DataError
from dlrm.inference.exported.predictor import Predictor
from dlrm.inference.features import Features
from dlrm.inference.predict.assemble import assemble, probabilities_of
from dlrm.inference.predict.inputs import Block, Decoded
from dlrm.inference.predict.parquet import _runs
from dlrm.inference.predict.score import part_of
from dlrm.inference.predict.told import metrics_path, summary, write_metrics
from dlrm.inference.predict.work import WorkFolder
from dlrm.progress import Progress
from tests.support.predicting import options

TASKS = ("click", "like")
ROWS = 3000
BAD = {7, 8, 1999}


class GivenBlock(Block):
    """Rows whose only id is their number; some cannot be read."""

    def __init__(self, index, labels_MT):
        super().__init__(index, len(labels_MT))
        self.first, self.labels_MT = 0, labels_MT

    def decode(self, rows):
        bad = [row for row in sorted(BAD) if rows.start <= row < rows.stop]
        if bad:
            raise DataError("given", "is bad", row=bad[0] + 1)
        numbers_B1 = torch.arange(rows.start, rows.stop)[:, None]
        return Decoded(Features(torch.zeros(len(numbers_B1), 0), numbers_B1), self.labels_MT[rows])

    def carried(self):
        return [pa.array(range(self.rows))]

    def located(self, error):
        return error


@pytest.fixture(scope="module")
def given():
    """Logits and labels of each row and task; some labels are missing."""
    torch.manual_seed(0)
    logits_MT = torch.randn(ROWS, 2)
    labels_MT = (torch.rand(ROWS, 2) < logits_MT.sigmoid()).float()
    labels_MT[::5, 1] = torch.nan
    return logits_MT, labels_MT


def predictor(logits_MT):
    schema = SimpleNamespace(tasks=TASKS)
    return SimpleNamespace(schema=schema, logits=lambda features: logits_MT[features.ids_BS[:, 0]])


def assembled(forms, given, folder, ending, *, labelled=True, **changes):
    logits_MT, labels_MT = given
    config = options(forms, folder / f"a.{ending}", **changes)
    work = WorkFolder(folder / f"a.{ending}")
    work.path.mkdir()
    part = part_of(GivenBlock(0, labels_MT), predictor(logits_MT), labelled=labelled, bad_rows="skip")
    with work.writing(work.part(0, 0)) as file, pa.ipc.new_file(file, part.schema) as out:
        out.write_table(part)
    carried = [pa.field("number", pa.int64())] * bool(config.carry)
    schema = pa.schema([*carried, *(pa.field(f"probability_{task}", pa.float32()) for task in TASKS)])

    def before_name(file, outcome):
        write_metrics(metrics_path(work.output), outcome)

    outcome = assemble(
        config,
        work,
        [SimpleNamespace(blocks=1)],
        schema=schema,
        tasks=TASKS,
        progress=Progress(),
        before_name=before_name,
    )
    return outcome, work.output, config


def test_each_task_has_its_column_and_figures_of_the_labels_that_are_there(forms, given, tmp_path):
    outcome, output, config = assembled(forms, given, tmp_path, "parquet", carry="number")
    logits_MT, labels_MT = given
    good_M = ~np.isin(np.arange(ROWS), list(BAD))
    table = pq.read_table(output)
    assert table["number"].to_pylist() == list(range(ROWS))
    figures = json.loads(metrics_path(output).read_text())
    assert (figures["rows"], figures["skipped"], outcome.skipped) == (ROWS, len(BAD), len(BAD))
    for task, name in enumerate(TASKS):
        column = table[f"probability_{name}"]
        assert np.array_equal(column.is_null().to_numpy(), ~good_M)
        np.testing.assert_allclose(
            column.filter(pa.array(good_M)).to_numpy(), logits_MT[good_M, task].double().sigmoid().numpy(), atol=1e-7
        )
        counted_M = good_M & ~labels_MT[:, task].isnan().numpy()
        auc = roc_auc_score(labels_MT[counted_M, task], logits_MT[counted_M, task])
        assert figures["tasks"][name]["auc"] == pytest.approx(auc, abs=1e-12)
        assert figures["tasks"][name]["samples"] == counted_M.sum()
    lines = summary(config, outcome, scored=1000, seconds=2.0).splitlines()
    assert lines[0] == f"3,000 rows (2,000 of them scored earlier), 3 rows skipped in 2.0 s, 500 rows/s: {output}"
    assert [line.split(":")[0] for line in lines[1:]] == ["click", "like"]


def test_an_array_has_a_column_a_task_and_nan_where_a_row_was_skipped(forms, given, tmp_path):
    _, output, _ = assembled(forms, given, tmp_path, "npy", bad_rows="skip")
    found_MT = np.load(output)
    assert found_MT.shape == (ROWS, 2)
    assert np.flatnonzero(np.isnan(found_MT).any(1)).tolist() == sorted(BAD)


def test_a_prediction_that_is_not_finite_is_told_and_there_are_no_figures(forms, given, tmp_path):
    logits_MT, labels_MT = given
    broken_MT = logits_MT.clone()
    broken_MT[3] = torch.nan
    outcome, output, config = assembled(forms, (broken_MT, labels_MT), tmp_path, "npy")
    assert outcome.results is None
    assert not metrics_path(output).exists()
    told = summary(config, outcome, scored=ROWS, seconds=1.0)
    assert told.endswith("; 1 row whose predictions are NaN or infinite, so there are no figures")
    assert "\n" not in told


@pytest.mark.parametrize("labelled", [True, False])
def test_predictions_that_are_not_finite_are_told_where_their_rows_have_no_labels(forms, given, tmp_path, labelled):
    """As the second task has none in every fifth row, and none has in unlabelled input; skipped rows are not meant."""
    logits_MT, labels_MT = given
    broken_MT = logits_MT.clone()
    broken_MT[5, 1], broken_MT[10, 1] = torch.nan, torch.inf
    if labelled:
        assert labels_MT[[5, 10], 1].isnan().all()
    outcome, output, config = assembled(forms, (broken_MT, labels_MT), tmp_path, "npy", labelled=labelled)
    assert (outcome.non_finite, outcome.skipped) == (2, len(BAD))
    first = summary(config, outcome, scored=ROWS, seconds=1.0).splitlines()[0]
    assert first.endswith(f"{output}; 2 rows whose predictions are NaN or infinite")
    assert (outcome.results is not None) == metrics_path(output).exists() == labelled
    if labelled:
        assert json.loads(metrics_path(output).read_text())["non_finite"] == 2


@pytest.mark.parametrize("tasks", [1, 3])
@pytest.mark.parametrize("rows", [0, 1, 31, 32, 1000, 1025, 70_001])
@pytest.mark.parametrize("threads", [1, 2])
def test_probabilities_have_the_bits_that_the_predictor_gives(rows, tasks, threads):
    logits_MT = 4 * torch.randn(rows, tasks)

    def dense(dense_BN, pooled_BX):
        return pooled_BX

    def lookup(features, size):
        found = torch.zeros(size, tasks)
        found[: len(features)] = logits_MT[features.ids_BS[:, 0]]
        return found

    manifest = SimpleNamespace(columns=SimpleNamespace(tasks=[""] * tasks))
    folder = SimpleNamespace(manifest=manifest)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        found = Predictor(folder, None, lookup, dense).probabilities(
            Features(torch.zeros(rows, 0), torch.arange(rows)[:, None])
        )
        assert torch.equal(probabilities_of(logits_MT), found)
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize(
    ("groups", "expected"),
    [
        ([], []),
        ([10], [((0,), 0, (10,))]),
        ([4, 0, 5, 3], [((0, 2), 0, (9,)), ((3,), 9, (3,))]),
        ([25, 3, 3], [((0,), 0, (10, 10, 5)), ((1, 2), 25, (6,))]),
        ([3, 25, 10], [((0,), 0, (3,)), ((1,), 3, (10, 10, 5)), ((2,), 28, (10,))]),
    ],
)
def test_row_groups_are_read_together_or_divided(groups, expected):
    assert [(run.groups, run.first_row, run.cuts) for run in _runs(groups, 10)] == expected
