import dataclasses

import pytest
import torch

from dlrm.data.check import SampleCheck
from dlrm.data.source import Samples
from dlrm.errors import DataError
from dlrm.schema import Schema

SCHEMA = Schema.numbered(2, rows=[10, 5, 3], hotness=[1, 3, 2])
INDEX = torch.tensor([40, 7, 99])


def good():
    return Samples(
        dense_BN=torch.tensor([[0.0, -1e30], [1e30, 3.0], [4.0, 5.0]]),
        ids_BS=torch.tensor([[9, 4, 0, 4, 2, 2], [0, 0, 0, 0, 0, 0], [5, 1, 2, 3, 1, 0]]),
        labels_B=torch.tensor([0.0, 1.0, 1.0]),
    )


def changed(field, at, value):
    samples = good()
    tensor = getattr(samples, field).clone()
    tensor[at] = value
    return dataclasses.replace(samples, **{field: tensor})


def test_good_samples_pass_unchanged():
    samples = good()
    assert SampleCheck(SCHEMA, "a.tsv")(samples, INDEX) is samples


@pytest.mark.parametrize(
    ("field", "at", "value", "row", "column", "problem"),
    [
        ("ids_BS", (1, 0), 10, 8, "cat_0", "id 10 is outside of its table (0 .. 9)"),
        ("ids_BS", (0, 0), -1, 41, "cat_0", "id -1 is outside of its table (0 .. 9)"),
        ("ids_BS", (2, 3), 5, 100, "cat_1", "id 5 is outside of its table (0 .. 4)"),
        ("ids_BS", (2, 5), 2**40, 100, "cat_2", "id 1099511627776 is outside of its table (0 .. 2)"),
        ("dense_BN", (0, 1), float("nan"), 41, "int_1", "nan is not finite"),
        ("dense_BN", (2, 0), float("inf"), 100, "int_0", "inf is not finite"),
        ("dense_BN", (2, 0), float("-inf"), 100, "int_0", "-inf is not finite"),
        ("labels_B", (1,), 0.5, 8, "label", "0.5 is neither 0 nor 1"),
        ("labels_B", (1,), -1.0, 8, "label", "-1.0 is neither 0 nor 1"),
        ("labels_B", (2,), 2.0, 100, "label", "2.0 is neither 0 nor 1"),
        ("labels_B", (0,), float("nan"), 41, "label", "nan is neither 0 nor 1"),
    ],
)
def test_a_bad_value_is_named_with_row_column_and_value(field, at, value, row, column, problem):
    with pytest.raises(DataError) as caught:
        SampleCheck(SCHEMA, "a.tsv")(changed(field, at, value), INDEX)
    error = caught.value
    assert (error.path, error.row, error.column, error.problem) == ("a.tsv", row, column, problem)
    assert error.mend
    assert "\n" not in str(error)


def test_no_samples_pass():
    nothing = Samples(torch.empty(0, 2), torch.empty(0, 6, dtype=torch.int64), torch.empty(0))
    assert SampleCheck(SCHEMA, "a.tsv")(nothing, torch.empty(0, dtype=torch.int64)) is nothing


def test_data_without_dense_features_pass():
    schema = Schema.numbered(0, rows=[10])
    samples = Samples(torch.empty(2, 0), torch.tensor([[1], [2]]), torch.tensor([0.0, 1.0]))
    assert SampleCheck(schema, "a.tsv")(samples, torch.arange(2)) is samples
