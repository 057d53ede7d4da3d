"""States from which training cannot go on are told from those from which it can."""

import pytest
import torch

from dlrm.checkpoint.delta.quantise import encode_rows, quantised
from dlrm.checkpoint.snapshot import Snapshots
from dlrm.checkpoint.soundness import fault_in_snapshot, fault_in_state
from dlrm.checkpoint.tensors import GlobalTensor, Shard


def tensor(name, values, **options):
    return GlobalTensor.of(name, values, **options)


def rows_with(value, dtype=torch.float32):
    rows_ND = torch.linspace(-3, 3, 60).view(10, 6).to(dtype)
    rows_ND[7, 2] = value
    return rows_ND


def fault_in(tensors):
    """What is found in the state, and the same in a copy of it."""
    found = fault_in_state(tensors)
    assert fault_in_snapshot(Snapshots().snapshot(tensors)) == found
    return found


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize(
    ("value", "words"),
    [(float("nan"), "NaN"), (float("inf"), "an infinite number"), (-float("inf"), "an infinite number")],
)
def test_what_is_not_finite_is_named_wherever_it_is(value, words, dtype):
    good = tensor("over.0.weight", rows_with(1.0, dtype))
    for name in ("tables.a.weight", "tables.a.optimizer.sum", "average.over.0.weight", "touched.a.0_0.optimizer.sum"):
        assert fault_in([good, tensor(name, rows_with(value, dtype))]) == f"{name} holds {words}"
    apart = (Shard((0, 0), rows_with(0.0, dtype)[:5]), Shard((5, 0), rows_with(value, dtype)[5:]))
    assert fault_in([GlobalTensor("tables.b.weight", (10, 6), dtype, apart)]) == f"tables.b.weight holds {words}"


def test_numbers_whose_products_overflow_are_as_bad_as_infinite_ones():
    assert torch.tensor(2.0**32).pow(4) == float("inf")  # what the limit is about
    for value in (6e4, 1e9, -4e9):
        assert fault_in([tensor("over.0.weight", rows_with(value))]) == ""
    for value in (1e10, -1e30):
        found = fault_in([tensor("over.0.weight", rows_with(value)), tensor("over.1.weight", rows_with(value))])
        assert found.startswith(f"over.0.weight holds a number of size {abs(value):.1e}, more than 4.3e+09")
        assert found.endswith("(so does over.1.weight)")
    assert fault_in([tensor("over.0.weight.optimizer.exp_avg_sq", rows_with(1e19))]) == ""  # squares of 3e9
    assert "more than 1.8e+19" in fault_in([tensor("tables.a.optimizer.sum", rows_with(1e20))])


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e30, -1e30])
def test_quantised_rows_are_looked_at_as_well(value):
    codes = tensor("touched.a.0_0.weight", encode_rows(rows_with(value)))
    assert fault_in([codes]).startswith("touched.a.0_0.weight holds")
    weight = torch.linspace(-3, 3, 600).view(10, 60)
    weight[3, 4] = value
    small = quantised(tensor("over.0.weight", weight, replicated=True))
    assert small.dtype == torch.uint8
    assert fault_in([small]).startswith("reduced.over.0.weight holds")
    assert fault_in([tensor("touched.a.0_0.weight", encode_rows(rows_with(1.0)))]) == ""


def test_counters_and_tensors_without_elements_are_no_matter():
    tensors = [
        tensor("average.steps", torch.tensor(2**62)),
        tensor("over.0.weight.optimizer.step", torch.tensor(1e6)),
        tensor("touched.a.0_0.weight", torch.zeros((0, 14), dtype=torch.uint8)),
        tensor("touched.b.0_0.rows", torch.tensor([2**31 - 1], dtype=torch.int32)),
        tensor("nothing", torch.zeros((0, 4))),
        GlobalTensor("tables.elsewhere.weight", (3, 4), torch.float32, ()),
    ]
    assert fault_in(tensors) == fault_in([]) == ""
