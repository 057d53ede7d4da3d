"""Whatever is wrong with the input: one line that says where and how to mend it, exit code 2, on every rank."""

import gzip

import pytest

from tests.support.command import run_command

GOOD = "1\t" + "\t".join(["3", "", "17"]) + "\t" + "\t".join(["68fd1e64", "", "0b153874"])
COLUMNS = ["--data.kind", "criteo_tsv", "--data.num_dense", "3", "--data.num_sparse", "3"]
SMALL = [
    *("--model.bottom_mlp", "8,4", "--model.embedding_dim", "4", "--model.top_mlp", "8,1"),
    *("--train.global_batch_size", "8", "--logging.tensorboard", "false"),
]


def rows(bad=None, at=5, count=40):
    """Good rows, of which the one numbered ``at`` (from 1) is replaced."""
    lines = [GOOD.replace("1", str(i % 2), 1) for i in range(count)]
    if bad is not None:
        lines[at - 1] = bad
    return "\n".join(lines) + "\n"


def assert_one_line_and_exit_code_2(outcomes, *parts):
    spoken = [outcome.stderr.strip() for outcome in outcomes if outcome.stderr.strip()]
    assert len(spoken) == 1, spoken
    assert len(spoken[0].splitlines()) == 1, spoken[0]
    assert "Traceback" not in spoken[0]
    for part in parts:
        assert part in spoken[0], spoken[0]
    assert outcomes[0].exit_code == 2
    assert all(outcome.exit_code in (2, -15, 143) for outcome in outcomes)  # the launcher may end the silent ones


def with_field(number, value):
    """A good row with one field replaced; field 0 is the label, 1-3 are integers, 4-6 categories."""
    fields = GOOD.split("\t")
    fields[number] = value
    return "\t".join(fields)


MALFORMED = {
    "too few columns": (GOOD.rsplit("\t", 1)[0], ["row 5", "6 columns"]),
    "label": (with_field(0, "2"), ["row 5", "label", "2"]),
    "hex": (with_field(5, "xyz"), ["row 5", "cat_1", "xyz"]),
    "nan": (with_field(1, "nan"), ["row 5", "int_0", "nan"]),
    "inf": (with_field(3, "-inf"), ["row 5", "int_2", "-inf"]),
}


@pytest.mark.parametrize("case", list(MALFORMED))
@pytest.mark.parametrize("world_size", [1, 2])
def test_a_malformed_row_is_named_with_file_row_and_column(tmp_path, case, world_size):
    bad, parts = MALFORMED[case]
    path = tmp_path / "clicks.tsv"
    path.write_text(rows(bad))
    outcomes = run_command(["train", *COLUMNS, "--data.paths", str(path), *SMALL, f"run.dir={tmp_path}"], world_size)
    assert_one_line_and_exit_code_2(outcomes, str(path), *parts)


def test_an_id_beyond_its_table_is_named(tmp_path):
    path = tmp_path / "clicks.tsv"
    path.write_text("".join(f"0\t1\t2\t3\t{i % 5}\t{i}\t7\n" for i in range(40)))
    options = ["data.categories.kind=ids", "data.categories.rows=5,30,8", f"run.dir={tmp_path}"]
    outcomes = run_command(["train", *COLUMNS, "--data.paths", str(path), *SMALL, *options], 2)
    assert_one_line_and_exit_code_2(outcomes, str(path), "row 31", "cat_1", "30")


@pytest.mark.parametrize("world_size", [1, 3])
def test_a_broken_or_missing_file_is_named(tmp_path, world_size):
    empty, cut, missing = tmp_path / "empty.tsv", tmp_path / "cut.tsv.gz", tmp_path / "missing.tsv"
    empty.write_text("")
    cut.write_bytes(gzip.compress(rows(count=4000).encode())[:-20])
    for path, part in ((empty, "empty"), (cut, "gzip"), (missing, "o such file")):
        words = ["train", *COLUMNS, "--data.paths", str(path), *SMALL, f"run.dir={tmp_path}"]
        assert_one_line_and_exit_code_2(run_command(words, world_size), str(path), part)


@pytest.mark.parametrize(
    ("options", "parts"),
    [
        (["--train.global_batch_sizes", "8"], ["unknown option", "train.global_batch_size"]),
        (["--train.global_batch_size", "0"], ["train.global_batch_size", "greater than 0"]),
        (["--config", "no/such.yaml"], ["no/such.yaml", "No such file"]),
        (["--optim.sparse.kind", "adam", "--optim.sparse.lr", "1"], ["optim.sparse.kind", "CPU"]),
        (["--sharding.device_memory_gib", "1e-6"], ["do not fit", "sharding.device_memory_gib"]),
        (["--sharding.tables.cat_99.types", "row_wise"], ["sharding.tables.cat_99", "cat_9"]),
        (["--optim.lr_scale.top_mpl", "2"], ["optim.lr_scale.top_mpl", "top_mlp"]),
        (["--distributed.device", "cuda"], ["distributed.device", "is built for CPU"]),
        (["--run.dir", "/proc/nothing"], ["run.dir"]),
        (["--checkpoint.best", "auc", "--data.validation_samples", "0"], ["checkpoint.best", "validation samples"]),
        (["--evaluation.target_auc", "0.8", "--data.validation_samples", "0"], ["evaluation.target_auc", "validation"]),
        (["--resume", "nowhere"], ["nowhere", "is no checkpoint"]),
    ],
)
@pytest.mark.parametrize("world_size", [1, 2])
def test_a_mistake_in_the_configuration_is_named(tmp_path, options, parts, world_size):
    data = [
        "data.kind=random",
        "data.train_samples=64",
        "data.rows=10,20,30,40,50,60,70,80,90,100",
        f"run.dir={tmp_path}",
    ]
    assert_one_line_and_exit_code_2(run_command(["train", *data, *SMALL, *options], world_size), *parts)
    assert not list(tmp_path.glob("*/metrics.jsonl"))  # nothing is left behind that looks like a run


@pytest.mark.parametrize("world_size", [1, 2])
def test_training_that_diverges_ends_at_the_next_record_and_names_the_step(tmp_path, world_size):
    size = ["data.train_samples=64", "data.validation_samples=0", "data.test_samples=0", "data.rows=4,4"]
    rate = ["optim.dense.kind=sgd", "optim.dense.lr=1e30", "logging.every_steps=4"]
    outcomes = run_command(["train", *size, *rate, *SMALL, f"run.dir={tmp_path}"], world_size)
    assert_one_line_and_exit_code_2(outcomes, "step 4: the training loss is nan", "optim.dense.lr")
    assert (tmp_path / "run" / "metrics.jsonl").read_text() == ""  # NaN is no JSON
