import pickle

import pytest

from dlrm.errors import (
    CheckpointError,
    ConfigError,
    ConfigProblem,
    DataError,
    DlrmError,
    PlanError,
    SetupError,
)

EVERY_ERROR = [
    SetupError("no device"),
    PlanError("does not fit"),
    CheckpointError("is torn"),
    ConfigError.at("train.epochs", "is 0", "a.yaml:3"),
    ConfigError([ConfigProblem("a.b", "", "x"), ConfigProblem("", "a.yaml", "y")]),
    DataError("a.tsv", "is empty"),
    DataError("a.tsv", "'x' is no number", row=3, column="int_0", mend="mend the file"),
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
    assert str(EVERY_ERROR[4]) == "2 mistakes in the configuration\n  a.b: x\n  a.yaml: y"
