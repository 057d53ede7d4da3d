"""The Criteo_x1 benchmark's configuration on files of its shape."""

import json
from pathlib import Path

from tests.support.command import run_command
from tests.unit.dataset_tools.test_pack import write_csv

CONFIG = Path(__file__).resolve().parents[2] / "configs" / "criteo_x1.yaml"


def test_files_of_criteo_x1_are_packed_and_trained_on_as_its_configuration_says(tmp_path):
    for seed, (name, rows) in enumerate((("train", 2100), ("valid", 600), ("test", 300))):
        write_csv(tmp_path / f"{name}.csv", rows, seed=seed)
    files = [
        f"--train={tmp_path / 'train.csv'}",
        f"--validation={tmp_path / 'valid.csv'}",
        f"--test={tmp_path / 'test.csv'}",
    ]
    (outcome,) = run_command(["pack", *files, f"--output={tmp_path / 'packed'}"])
    assert outcome.exit_code == 0, outcome.stderr
    assert "2,100 train, 600 validation, 300 test rows" in outcome.stdout

    words = [f"--data.path={tmp_path / 'packed'}", f"--run.dir={tmp_path}", "--train.global_batch_size", "512"]
    (outcome,) = run_command(["train", "--config", str(CONFIG), *words, "--logging.tensorboard", "false"])
    assert outcome.exit_code == 0, outcome.stderr
    summary = json.loads((tmp_path / "criteo_x1" / "summary.json").read_text())
    assert (summary["samples"], summary["validation"]["samples"], summary["test"]["samples"]) == (2100, 600, 300)
