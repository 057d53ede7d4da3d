"""A run that goes on does so in the data it has stopped in."""

import shutil

from tests.e2e.test_bad_input import assert_one_line_and_exit_code_2
from tests.support.command import run_command
from tests.unit.data.parquet.parquet_files import columns, write

SMALL = [
    *("--data.kind", "parquet", "--data.dense", "x", "--data.sparse", "small,large", "--data.rows", "100,200"),
    *("--model.bottom_mlp", "8,4", "--model.embedding_dim", "4", "--model.top_mlp", "8,1"),
    *("--train.global_batch_size", "8", "--logging.tensorboard", "false", "--resume", "auto"),
]


def write_days(folder, order=slice(None)):
    for i in range(2):
        values = {name: column[order] for name, column in columns(60, 60 * i).items()}
        write(folder / f"train_{i}.parquet", values)


def train(tmp_path, data, *options, ranks=1):
    return run_command(["train", *SMALL, "--data.path", str(data), "--run.dir", str(tmp_path), *options], ranks)


def test_rows_in_another_order_are_refused_on_every_rank_and_a_copy_is_not(tmp_path):
    write_days(tmp_path / "data")
    shutil.copytree(tmp_path / "data", tmp_path / "copy")
    (first,) = train(tmp_path, tmp_path / "data", "--train.max_steps", "5")
    assert first.exit_code == 0, first
    write_days(tmp_path / "data", slice(None, None, -1))  # the job that wrote them has run again
    refused = train(tmp_path, tmp_path / "data", ranks=2)
    assert_one_line_and_exit_code_2(
        refused,
        "the training data are not those it was saved with: train_0.parquet has",
        "(and 1 more files differ)",
        "--resume.changed_data true",
    )
    (meant,) = train(tmp_path, tmp_path / "data", "--resume.changed_data", "true", "--train.max_steps", "6")
    assert meant.exit_code == 0, meant
    assert "(step 5, 40 samples)" in meant.stdout
    assert "goes on in other training data, as resume.changed_data says: train_0.parquet has" in meant.stdout
    shutil.rmtree(tmp_path / "run" / "checkpoints" / "step_00000006")
    (copied,) = train(tmp_path, tmp_path / "copy")
    assert copied.exit_code == 0, copied
    assert "(step 5, 40 samples)" in copied.stdout
    assert "other training data" not in copied.stdout
