"""Rows in fewer bits, against row-wise quantisation in float64 and against fbgemm's own way back."""

import fbgemm_gpu  # noqa: F401  # loads the operators
import numpy as np
import pytest
import torch

from dlrm.errors import ExportError
from dlrm.inference.exported.rows import stored_rows

BITS = {"int8": 8, "int4": 4}


def rows_of_many_sizes() -> torch.Tensor:
    """(600, 12): numbers around 1e-3 to 1e3, rows of one number, of zeros, and off centre."""
    generator = torch.Generator().manual_seed(5)
    sizes_R1 = 10 ** (torch.rand(600, 1, generator=generator) * 6 - 3)
    rows_RD = torch.randn(600, 12, generator=generator) * sizes_R1
    rows_RD[1], rows_RD[2], rows_RD[3] = 0, 0.3, rows_RD[3] + 40
    return rows_RD


def stored(rows_RD: torch.Tensor, precision: str) -> torch.Tensor:
    return stored_rows(rows_RD, precision, path="e", table="cat_0", first_row=0)


def read_back(stored_RC: torch.Tensor, precision: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Integers, scale and bias of stored rows as the manifest describes them, in float64."""
    data = stored_RC.numpy()
    scale_R1, bias_R1 = data[:, :4].copy().view(np.float16).astype(np.float64).T[:, :, None]
    packed = data[:, 4:]
    integers = packed if precision == "int8" else np.stack((packed & 15, packed >> 4), axis=2).reshape(len(data), -1)
    return integers.astype(np.float64), scale_R1, bias_R1


@pytest.mark.parametrize("precision", ["int8", "int4"])
def test_integers_scale_and_bias_are_those_of_row_wise_quantisation_in_float64(precision):
    rows_RD = rows_of_many_sizes()
    integers, scale_R1, bias_R1 = read_back(stored(rows_RD, precision), precision)
    exact = rows_RD.double().numpy()
    largest = 2 ** BITS[precision] - 1
    low_R1, high_R1 = exact.min(1, keepdims=True), exact.max(1, keepdims=True)
    np.testing.assert_array_equal(bias_R1, low_R1.astype(np.float16))
    span_R1 = high_R1 - bias_R1
    plain = (span_R1 > 1e-2)[:, 0]  # below, float16 has few digits for a scale
    assert plain.sum() > 450
    np.testing.assert_allclose(scale_R1[plain], span_R1[plain] / largest, rtol=2**-11 + 1e-6, atol=2**-25)
    expected = np.clip(np.rint((exact - bias_R1) / scale_R1), 0, largest)
    assert (np.abs(integers - expected)[plain] <= 1).all()  # a tie may be rounded either way
    assert (integers == expected)[plain].mean() > 0.999


@pytest.mark.parametrize("precision", ["int8", "int4"])
def test_fbgemms_own_operator_gives_the_same_numbers_back(precision):
    rows_RD = rows_of_many_sizes()
    stored_RC = stored(rows_RD, precision)
    integers, scale_R1, bias_R1 = read_back(stored_RC, precision)
    scale_and_bias_last = torch.cat((stored_RC[:, 4:], stored_RC[:, :4]), dim=1)
    found = torch.ops.fbgemm.FusedNBitRowwiseQuantizedSBHalfToFloat(scale_and_bias_last, BITS[precision])
    np.testing.assert_allclose(found.double().numpy(), integers * scale_R1 + bias_R1, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("precision", "bits"), [("int8", 8), ("int4", 4)])
def test_no_weight_is_off_by_more_than_half_a_step_and_the_roundings_of_scale_and_bias(precision, bits):
    rows_RD = rows_of_many_sizes()
    integers, scale_R1, bias_R1 = read_back(stored(rows_RD, precision), precision)
    errors = np.abs(integers * scale_R1 + bias_R1 - rows_RD.double().numpy())
    low_R1 = rows_RD.double().numpy().min(1, keepdims=True)
    rounding_R1 = np.abs(bias_R1 - low_R1) + (2**bits - 1) * np.maximum(scale_R1 * 2**-11, 2**-25)
    constant = (rows_RD.numpy() == rows_RD.numpy()[:, :1]).all(1, keepdims=True)
    assert (errors <= scale_R1 * 0.501 * ~constant + rounding_R1 + 1e-7).all()
    assert errors[1].max() == 0


def test_halves_are_halves_and_float32_is_left_as_it_is():
    rows_RD = rows_of_many_sizes()
    assert torch.equal(stored(rows_RD, "fp16"), rows_RD.half())
    assert torch.equal(stored(rows_RD, "fp32"), rows_RD)


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8", "int4"])
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_weight_that_is_not_finite_is_an_error_with_table_and_row(precision, bad):
    rows_RD = rows_of_many_sizes()
    rows_RD[17, 3] = rows_RD[30, 1] = bad
    with pytest.raises(ExportError, match=r"^e: row 1017 of table cat_7 is not finite"):
        stored_rows(rows_RD, precision, path="e", table="cat_7", first_row=1000)


@pytest.mark.parametrize(("precision", "most"), [("fp16", 7e4), ("int8", 2e7), ("int4", 2e6)])
def test_what_float16_cannot_say_is_an_error(precision, most):
    rows_RD = rows_of_many_sizes()
    rows_RD[9, 2] = most
    with pytest.raises(ExportError, match=f"row 9 of table cat_0 has weights that are too large for {precision}"):
        stored(rows_RD, precision)
    rows_RD[9, 2] = 6e4
    stored(rows_RD, precision)
