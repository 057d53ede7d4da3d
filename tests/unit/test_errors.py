import pickle

import pytest

from dlrm.errors import (
    CheckpointError,
    CheckpointMismatchError,
    ConfigError,
    ConfigProblem,
    DataError,
    DlrmError,
    HalfLoadedError,
    PlanError,
    SetupError,
)

HOSTILE = "two\nlines\x1b[31m\u202e"
EVERY_ERROR = [
    SetupError("no device"),
    PlanError("does not fit"),
    CheckpointError("step_1/manifest.json", "is torn", hint="restore it"),
    HalfLoadedError("step_1/a", "is gone"),
    CheckpointMismatchError("step_1", ["a is missing", "b is int64"], hint="use its configuration"),
    ConfigError.at("train.epochs", "is 0", "a.yaml:3"),
    ConfigError([ConfigProblem("a.b", "", "x"), ConfigProblem("", "a.yaml", "y")]),
    DataError("a.tsv", "is empty"),
    DataError("a.tsv", "'x' is no number", row=3, column="int_0", hint="mend the file"),
]


@pytest.mark.parametrize("error", EVERY_ERROR, ids=lambda error: type(error).__name__)
def test_errors_survive_the_way_to_another_rank(error):
    arrived = pickle.loads(pickle.dumps(error))
    assert type(arrived) is type(error)
    assert str(arrived) == str(error)
    assert arrived.__dict__ == error.__dict__
    assert isinstance(arrived, DlrmError)


def test_an_error_in_the_data_names_file_row_and_column():
    assert str(EVERY_ERROR[-1]) == "a.tsv, row 3, column int_0: 'x' is no number; mend the file"
    assert str(DataError("a.tsv", "is empty")) == "a.tsv: is empty"
    assert str(DataError("a.tsv", "has 3 fields", row=1)) == "a.tsv, row 1: has 3 fields"
    assert str(DataError("a.tsv", "is constant", column="int_0")) == "a.tsv, column int_0: is constant"


def test_one_mistake_is_one_line_and_several_are_listed():
    assert str(ConfigError.at("train.epochs", "is 0", "a.yaml:3")) == "a.yaml:3: train.epochs: is 0"
    assert str(ConfigError.at("train.epochs", "is 0")) == "train.epochs: is 0"
    several = ConfigError([ConfigProblem("a.b", "", "x"), ConfigProblem("", "a.yaml", "y")])
    assert str(several) == "2 mistakes in the configuration\n  a.b: x\n  a.yaml: y"


def test_an_error_of_a_checkpoint_names_the_file_and_lists_all_that_differs():
    assert (
        str(CheckpointError("a/manifest.json", "is torn", hint="restore it")) == "a/manifest.json: is torn; restore it"
    )
    assert str(CheckpointMismatchError("a", ["x is missing"])) == "a: does not fit: x is missing"
    assert str(CheckpointMismatchError("a", ["x is missing", "y is int64"])) == (
        "a: does not fit in 2 places:\n  x is missing\n  y is int64"
    )


@pytest.mark.parametrize(
    "error",
    [
        SetupError(HOSTILE),
        PlanError(HOSTILE),
        CheckpointError(HOSTILE, HOSTILE, hint=HOSTILE),
        CheckpointMismatchError(HOSTILE, [HOSTILE], hint=HOSTILE),
        CheckpointMismatchError("a", [HOSTILE, HOSTILE], hint=HOSTILE),
        ConfigError.at(HOSTILE, HOSTILE, HOSTILE),
        ConfigError([ConfigProblem("a", "", HOSTILE), ConfigProblem(HOSTILE, "", "x")]),
        DataError(HOSTILE, HOSTILE, row=1, column=HOSTILE, hint=HOSTILE),
    ],
    ids=lambda error: type(error).__name__,
)
def test_what_errors_quote_does_nothing_to_a_terminal_and_begins_no_line(error):
    lines = str(error).split("\n")
    assert all(line.isprintable() for line in lines)
    assert len(lines) == (3 if "2 " in lines[0] else 1)
    assert "two\\nlines\\x1b[31m\\u202e" in str(error)
