"""Where every sample is skipped, the causes of all ranks are counted and said."""

import pyarrow as pa

from tests.e2e.test_bad_input import assert_one_line_and_exit_code_2
from tests.support.command import run_command
from tests.unit.data.parquet.parquet_files import columns, write

SMALL = [
    *("--data.kind", "parquet", "--data.dense", "x", "--data.sparse", "small,large", "--data.rows", "100,200"),
    *("--model.bottom_mlp", "8,4", "--model.embedding_dim", "4", "--model.top_mlp", "8,1"),
    *("--train.global_batch_size", "8", "--logging.tensorboard", "false", "--data.bad_rows", "skip"),
]


def train(tmp_path, *options):
    return run_command(["train", *SMALL, "--data.path", str(tmp_path), "--run.dir", str(tmp_path), *options], 2)


def test_a_validation_set_and_then_a_training_set_without_a_label_are_said(tmp_path):
    write(tmp_path / "train.parquet", columns(16))
    write(tmp_path / "val.parquet", columns(10) | {"label": pa.nulls(10)})
    leader, other = train(tmp_path)
    assert (leader.exit_code, other.exit_code) == (0, 0), leader
    assert "no score, as every sample was skipped (data.bad_rows: skip): label: 10" in " ".join(leader.stdout.split())
    write(tmp_path / "train.parquet", columns(16) | {"label": pa.nulls(16), "small": [None] * 4 + [5] * 12})
    assert_one_line_and_exit_code_2(
        train(tmp_path), "every sample of the steps up to 2 was skipped", "small (null): 4, label: 16"
    )
