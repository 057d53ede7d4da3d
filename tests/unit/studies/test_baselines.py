"""What other learners are given, by hand; and their file."""

import json

import numpy as np
import pytest
import torch

from benchmarks.baselines import ClickRates, OneHot, Rows, main, read
from dlrm.config import Config
from dlrm.config.data import PlantedData
from dlrm.config.describe import to_plain
from dlrm.data.build import build_dataset
from dlrm.errors import ConfigError
from dlrm.schema import Schema, SparseFeature
from dlrm.studies.baselines import FORMAT, VERSION, read_baselines

SCHEMA = Schema(("x",), (SparseFeature("a", 3), SparseFeature("b", 4, hotness=2)))
ROWS = Rows(
    np.array([[1.0], [2.0], [3.0], [6.0]], dtype=np.float32),
    np.array([[0, 3, 1], [1, 0, -1], [0, 2, 3], [2, -1, -1]]),
    np.array([1.0, 0.0, 0.0, 1.0], dtype=np.float32),
)


def test_ids_become_columns_and_dense_features_are_standardised():
    found = OneHot(SCHEMA, ROWS)(ROWS).toarray()
    expected = np.zeros((4, 8))
    expected[:, 0] = (ROWS.dense_MN[:, 0] - 3.0) / ROWS.dense_MN.std()
    for row, columns in enumerate(([1, 7, 5], [2, 4], [1, 6, 7], [3])):
        expected[row, columns] = 1
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_click_rates_are_smoothed_and_those_of_training_rows_do_not_see_their_own_labels():
    rates = ClickRates(SCHEMA, ROWS, smoothing=2.0)
    found = rates(ROWS)
    assert found[0, 0] == pytest.approx((1 + 2 * 0.5) / (2 + 2))  # id 0 of a: one click in two rows, the mean is 0.5
    assert found[0, 1] == pytest.approx(np.log1p(2))
    of_3, of_1 = (1 + 1) / (2 + 2), (1 + 1) / (1 + 2)
    assert found[0, 2] == pytest.approx((of_3 + of_1) / 2)
    assert found[3, 2] == 0.0  # an empty bag
    generator = np.random.default_rng(0)
    labels_M = (generator.random(600) < 0.5).astype(np.float32)
    ids_MS = np.stack([np.arange(600), np.arange(600), np.full(600, -1)], axis=1)  # each id once
    wide = Schema(("x",), (SparseFeature("a", 600), SparseFeature("b", 600, hotness=2)))
    own = Rows(np.zeros((600, 1), dtype=np.float32), ids_MS, labels_M)
    own_rates = ClickRates(wide, own, smoothing=1.0)
    assert np.corrcoef(own_rates(own)[:, 0], labels_M)[0, 1] > 0.99  # would give the labels away
    assert abs(np.corrcoef(own_rates.of_training(own)[:, 0], labels_M)[0, 1]) < 0.15


def test_the_rows_are_those_of_the_split():
    dataset = build_dataset(
        PlantedData(train_samples=300, validation_samples=20, test_samples=20, rows=(9, 5), num_dense=2)
    )
    rows = read(dataset.train)
    samples = dataset.train.read(torch.arange(300))
    np.testing.assert_array_equal(rows.ids_MS, samples.ids_BS.numpy())
    np.testing.assert_array_equal(rows.labels_M, samples.labels_BT[:, 0].numpy())


def test_figures_by_weight_are_refused_before_anything_is_read(tmp_path, monkeypatch, capsys):
    (tmp_path / "c.yaml").write_text("evaluation: {weighted: true}")
    words = ["--config", str(tmp_path / "c.yaml"), "--output", str(tmp_path / "b.json")]
    monkeypatch.setattr("sys.argv", ["baselines", *words])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    assert "evaluation.weighted: these learners know no weights of samples" in capsys.readouterr().err


def test_a_file_of_baselines_is_read_and_says_whether_its_data_are_the_studys(tmp_path):
    path, config = tmp_path / "b.json", Config(data={"kind": "planted", "train_samples": 300})
    run = {"seed": 4, "validation": {"auc": 0.7, "log_loss": None}, "test": {"auc": 0.6}}
    found = {
        "format": FORMAT, "version": VERSION, "data": json.loads(json.dumps(to_plain(config.data))),
        "learners": {"LightGBM": {"about": "tuned", "runs": [run]}},
    }  # fmt: skip
    path.write_text(json.dumps(found))
    (baseline,) = read_baselines(str(path), config)
    assert baseline.runs == {4: {("validation", "auc"): 0.7, ("test", "auc"): 0.6}}
    assert baseline.same_data
    assert not read_baselines(str(path), Config())[0].same_data
    with pytest.raises(ConfigError, match=r"evaluation\.weighted is true"):
        read_baselines(str(path), Config(evaluation={"weighted": True}))
    path.write_text(json.dumps({**found, "learners": {"LightGBM": {}}}))
    with pytest.raises(ConfigError, match="is damaged"):
        read_baselines(str(path), config)
    path.write_text("{}")
    with pytest.raises(ConfigError, match=r"is no file of benchmarks\.baselines"):
        read_baselines(str(path), config)
