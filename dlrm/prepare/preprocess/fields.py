"""The fields of raw rows in one pass over their bytes, compiled by numba.

Parsing is where preprocessing spends its time if it is let: on Criteo rows (243 bytes) one core did 2.1 million rows/s
with pyarrow's CSV reader, 1.6 with polars' and 0.6 with numpy, all of them with categories still to be decoded from
hexadecimal and integers to be transformed; the loop below, which does everything, did 4.5 million.

It knows what is well formed and nothing else: at the first malformed row it stops, and
:func:`dlrm.data.raw.tsv_parse.parse_lines` words what is wrong there.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
from numba import njit

from dlrm.config.prepare import FixedDense

Bytes = npt.NDArray[np.uint8]
Float32s = npt.NDArray[np.float32]

_TAB, _NEWLINE, _RETURN, _MINUS, _ZERO, _ONE = b"\t\n\r-01"
_NO_DIGIT = 255
_MAX_DECIMAL_DIGITS = 18
_MAX_HEX_DIGITS = 8
_TABLE_FIRST, _TABLE_LAST = -1024, 65_536  # integers whose transform is looked up: most of what occurs


def _digit_table() -> Bytes:
    table = np.full(256, _NO_DIGIT, np.uint8)
    for digits in (b"0123456789abcdef", b"0123456789ABCDEF"):
        table[list(digits)] = range(16)
    return table


_DIGIT_OF_BYTE = _digit_table()


class LogTransform:
    """x -> log(max(x, minimum) + shift) of integers, in float64 and rounded to float32.

    Args:
        config: shift, minimum and what stands for a missing value.
    """

    def __init__(self, config: FixedDense) -> None:
        integers = np.arange(_TABLE_FIRST, _TABLE_LAST, dtype=np.float64)
        self.table = np.log(np.maximum(integers, config.minimum) + config.shift).astype(np.float32)
        self.shift, self.minimum = float(config.shift), float(config.minimum)
        self.missing = np.float32(math.log(max(config.missing, config.minimum) + config.shift))


def parse_fields(
    lines: Bytes,
    transform: LogTransform,
    *,
    labels_M: Bytes,
    dense_MN: Float32s,
    dense_missing_N: npt.NDArray[np.int64],
    categories_FM: npt.NDArray[np.uint32],
    missing_FM: npt.NDArray[np.bool_],
) -> int:
    """Parse rows into arrays, without the GIL.

    Args:
        lines: at least M lines, the last one ending with a newline; CRLF is a newline as well.
        transform: of the integers.
        labels_M: filled; 0 or 1.
        dense_MN: filled; C-contiguous.
        dense_missing_N: the number of empty fields of each integer column is added.
        categories_FM: filled; 0 where the field is empty.
        missing_FM: filled; whether the field is empty.

    Returns:
        How many rows were parsed: M, or the index of the first malformed row, from which on nothing is defined.
    """
    aligned = lines.ctypes.data % 8 == 0
    words = lines[: len(lines) // 8 * 8 if aligned else 0].view(np.uint64)
    rows: int = _parse(
        lines, words, _DIGIT_OF_BYTE, transform.table, transform.minimum, transform.shift, transform.missing,
        labels_M, dense_MN, dense_missing_N, categories_FM, missing_FM,
    )  # fmt: skip
    return rows


# Nearly all categories have eight digits, which are decoded at once, as the bytes of a 64-bit number of which the first
# byte is the lowest: that took 15 % off parsing.


@njit(nogil=True, cache=True, inline="always")  # type: ignore[untyped-decorator]
def _eight_bytes(words: npt.NDArray[np.uint64], at: int) -> np.uint64:
    """The bytes from ``at`` on, from the two aligned words that they are in; 0 beyond the last but one."""
    word = at >> 3
    if word + 1 >= len(words):
        return np.uint64(0)
    bits = np.uint64((at & 7) << 3)
    # Two shifts, as one by 64 bits is undefined.
    eight: np.uint64 = (words[word] >> bits) | ((words[word + 1] << np.uint64(1)) << (np.uint64(63) - bits))
    return eight


@njit(nogil=True, cache=True, inline="always")  # type: ignore[untyped-decorator]
def _are_hex(eight: np.uint64) -> bool:
    """Whether all bytes are hexadecimal digits: a sum has a byte's top bit where the byte reaches a bound."""
    lower = eight | np.uint64(0x2020202020202020)
    decimal = (eight + np.uint64(0x5050505050505050)) & ~(eight + np.uint64(0x4646464646464646))  # "0" .. "9"
    letter = (lower + np.uint64(0x1F1F1F1F1F1F1F1F)) & ~(lower + np.uint64(0x1919191919191919))  # "a" .. "f"
    top_bits = np.uint64(0x8080808080808080)
    return bool((eight & top_bits == np.uint64(0)) & ((decimal | letter) & top_bits == top_bits))


@njit(nogil=True, cache=True, inline="always")  # type: ignore[untyped-decorator]
def _hex_value(eight: np.uint64) -> np.uint32:
    """Eight hexadecimal digits as a number: digits to bytes, to halves, to a word."""
    letters = (eight >> np.uint64(6)) & np.uint64(0x0101010101010101)
    x = (eight & np.uint64(0x0F0F0F0F0F0F0F0F)) + letters * np.uint64(9)
    x = ((x << np.uint64(4)) | (x >> np.uint64(8))) & np.uint64(0x00FF00FF00FF00FF)
    x = ((x << np.uint64(8)) | (x >> np.uint64(16))) & np.uint64(0x0000FFFF0000FFFF)
    return np.uint32((x << np.uint64(16)) | (x >> np.uint64(32)))


@njit(nogil=True, cache=True)
def _parse(  # type: ignore[no-untyped-def]  # noqa: ANN202
    lines, words, digits, table, minimum, shift, missing,  # noqa: ANN001
    labels, dense, dense_missing, categories, missing_category,  # noqa: ANN001
):  # fmt: skip
    # Nothing reads past the end: the last byte is a newline, which no field goes over and each row takes one of.
    num_rows, num_dense = dense.shape
    num_sparse = categories.shape[0]
    at = 0
    for row in range(num_rows):
        byte = lines[at]
        if (byte != _ZERO and byte != _ONE) or lines[at + 1] != _TAB:
            return row
        labels[row] = byte - _ZERO
        at += 2
        for column in range(num_dense):
            byte = lines[at]
            if byte == _TAB:
                dense[row, column] = missing
                dense_missing[column] += 1
                at += 1
                continue
            negative = byte == _MINUS
            if negative:
                at += 1
            first = at
            value = np.int64(0)
            digit = digits[lines[at]]
            while digit <= 9:
                value = value * 10 + digit
                at += 1
                digit = digits[lines[at]]
            if lines[at] != _TAB or at == first or at - first > _MAX_DECIMAL_DIGITS:
                return row
            at += 1
            if negative:
                value = -value
            if _TABLE_FIRST <= value < _TABLE_LAST:
                dense[row, column] = table[value - _TABLE_FIRST]
            else:
                dense[row, column] = np.float32(math.log(max(np.float64(value), minimum) + shift))
        for column in range(num_sparse):
            first = at
            eight = _eight_bytes(words, at)
            if _are_hex(eight):
                category = _hex_value(eight)
                missing_category[column, row] = False
                at += 8
            else:
                category = np.uint32(0)
                digit = digits[lines[at]]
                while digit <= 15:
                    category = (category << np.uint32(4)) | digit
                    at += 1
                    digit = digits[lines[at]]
                if at - first > _MAX_HEX_DIGITS:
                    return row
                missing_category[column, row] = at == first
            categories[column, row] = category
            if column < num_sparse - 1:
                if lines[at] != _TAB:
                    return row
            else:
                if lines[at] == _RETURN:
                    at += 1
                if lines[at] != _NEWLINE:
                    return row
            at += 1
    return num_rows
