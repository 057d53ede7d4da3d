"""Rows of a model stand for the values that they were trained on, or nothing is scored and nothing goes on."""

from tests.e2e.test_bad_input import assert_one_line_and_exit_code_2
from tests.support.command import run_command
from tests.unit.data.parquet.parquet_files import write

SMALL = [
    *("--data.kind", "parquet", "--data.dense", "x", "--data.sparse", "town", "--data.rows", "50"),
    *("--model.bottom_mlp", "8,4", "--model.embedding_dim", "4", "--model.top_mlp", "8,1"),
    *("--train.global_batch_size", "8", "--logging.tensorboard", "false", "--resume", "auto"),
    *("--preflight.enabled", "false", "--train.max_steps", "3"),
]
REFUSED = ("column town has another vocabulary than in training", "data.vocabulary.files")


def towns(path, first):
    rows = range(40)
    write(
        path,
        {"label": [i % 2 for i in rows], "x": [0.5 * i for i in rows], "town": [f"t{first + i % 9}" for i in rows]},
    )


def test_a_file_more_among_those_of_a_vocabulary_is_refused_until_the_old_ones_are_named(tmp_path):
    data = tmp_path / "data"
    for number in range(2):
        towns(data / f"train_{number}.parquet", 20)
    towns(data / "test.parquet", 20)
    train = [
        *("train", *SMALL, "--data.path", str(data), "--run.dir", str(tmp_path)),
        *("--data.vocabulary.columns", "town", "--data.vocabulary.folder", str(data)),
    ]
    evaluate = ["evaluate", str(tmp_path / "run")]
    for words in (train, evaluate):
        (outcome,) = run_command(words)
        assert outcome.exit_code == 0, outcome.stderr
    towns(data / "train_2.parquet", 10)
    for words in (evaluate, [*train, "--resume.changed_data", "true"]):
        assert_one_line_and_exit_code_2(run_command(words), *REFUSED)
    pinned = ["--data.vocabulary.files", "train_0.parquet,train_1.parquet"]
    (outcome,) = run_command([*evaluate, *pinned])
    assert outcome.exit_code == 0, outcome.stderr
