"""A history in Parquet, from the files to a resumed run, its evaluation and what is refused."""

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.support.command import run_command

DATA = (
    "{kind: parquet, path: %s, dense: [price], sparse: [user, item], rows: [20, 30], "
    "sequences: {clicked: {item: item, max_length: 4}}}"
)
MODEL = ["model.kind=din", "model.embedding_dim=8", "model.top_mlp=8,1", "model.dropout=0.1"]
QUIET = ["logging.tensorboard=false", "logging.progress=false"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Clicks on what has been clicked before; histories of up to nine items, of which four are kept."""
    path, random = tmp_path_factory.mktemp("clicks"), np.random.default_rng(0)
    for split, rows in (("train", 300), ("test", 100)):
        items = random.integers(0, 30, rows)
        histories = [random.integers(0, 30, random.integers(0, 10)).tolist() for _ in range(rows)]
        columns = {
            "label": [
                int(item % 3 in {seen % 3 for seen in seens[-4:]}) for item, seens in zip(items, histories, strict=True)
            ],
            "price": random.standard_normal(rows),
            "user": random.integers(0, 20, rows),
            "item": items,
            "clicked": histories,
        }
        pq.write_table(pa.table(columns), path / f"{split}.parquet", row_group_size=64)
    return path


def test_a_run_on_histories_is_resumed_scored_and_not_exported(folder, tmp_path):
    words = ["train", f"data={DATA % folder}", *MODEL, *QUIET, "train.global_batch_size=32", f"run.dir={tmp_path}"]

    def trained(name, *options):
        (outcome,) = run_command([*words, f"run.name={name}", *options])
        assert outcome.exit_code == 0, outcome.stderr
        lines = (tmp_path / name / "metrics.jsonl").read_text().splitlines()
        return next(line for line in reversed(lines) if '"kind": "test"' in line)

    whole = trained("whole", "train.epochs=2")
    assert trained("parts", "train.epochs=1") != whole
    assert trained("parts", "train.epochs=2", "--resume", "auto") == whole
    (scored,) = run_command(["evaluate", str(tmp_path / "whole")])
    assert scored.exit_code == 0, scored.stderr
    assert f"{json.loads(whole)['auc']:.5f}" in scored.stdout
    (refused,) = run_command(["export", str(tmp_path / "whole"), str(tmp_path / "export")])
    assert refused.exit_code == 2
    assert "model.kind: is din, of which there is no export yet" in refused.stderr
    assert not (tmp_path / "export").exists()
