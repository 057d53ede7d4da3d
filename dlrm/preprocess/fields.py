"""The fields of raw rows in one pass over their bytes, compiled by numba.

Parsing is where preprocessing spends its time if it is let: on Criteo rows (243 bytes) one core did 2.1 million rows/s
with pyarrow's CSV reader, 1.6 with polars' and 0.6 with numpy, all of them with categories still to be decoded from
hexadecimal and integers to be transformed; the loop below, which does everything, did 4.5 million.

It knows what is well formed and nothing else: at the first malformed row it stops, and
:func:`dlrm.data.raw.tsv_parse.parse_lines` words what is wrong there.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt
from llvmlite import ir  # type: ignore[import-untyped]
from numba import types
from numba.extending import intrinsic

from dlrm.compiled import compiled, inlined
from dlrm.config.prepare import FixedDense
from dlrm.data.raw.malformed import MAX_DECIMAL_DIGITS, MAX_HEX_DIGITS
from dlrm.preprocess.arrays import read_only
from dlrm.preprocess.records import Records, Words

Bytes = npt.NDArray[np.uint8]

_TAB, _NEWLINE, _RETURN, _MINUS, _POINT, _ZERO, _ONE = b"\t\n\r-.01"
_NO_DIGIT = 255
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
    records: Records,
    *,
    records_MW: Words,
    places_M: npt.NDArray[np.int64],
    missing_C: npt.NDArray[np.int64],
) -> int:
    """Parse rows into records, without the GIL.

    Args:
        lines: at least M lines, the last one ending with a newline; CRLF is a newline as well.
        transform: of the integers.
        records: how a row is laid out.
        records_MW: filled, each row with its number; C-contiguous.
        places_M: int64 (M,), which record each row is to be, each of them once.
        missing_C: the number of empty fields of each column is added, integers first.

    Returns:
        How many rows were parsed: M, or the index of the first malformed row, from which on nothing is defined.
    """
    words = records_MW.reshape(-1)
    rows: int = _parse(  # type: ignore[no-untyped-call]
        lines, _DIGIT_OF_BYTE, transform.table, transform.minimum, transform.shift, transform.missing,
        records.num_dense, records.num_sparse, words, words.view(np.float32), read_only(places_M), missing_C,
    )  # fmt: skip
    return rows


# Nearly all categories have eight digits, which are decoded at once, as the bytes of a 64-bit number of which the first
# byte is the lowest: that took 15 % off parsing. Places in arrays are never negative here, which numba would look at each
# time: another 11 %.


@intrinsic
def _load(typing_context, lines, at):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    """The 64-bit number whose bytes begin at some byte; wherever that is, it is one instruction."""

    def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
        word = builder.load(
            builder.bitcast(_address(context, builder, signature, arguments), ir.IntType(64).as_pointer())
        )
        word.align = 1
        return word

    return types.uint64(lines, types.intp), generate


@intrinsic
def _get(typing_context, array, at):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    """An element of a contiguous array of one dimension."""

    def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
        return builder.load(_address(context, builder, signature, arguments))

    return array.dtype(array, types.intp), generate


@intrinsic
def _put(typing_context, array, at, value):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    """Write an element of a contiguous array of one dimension."""

    def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
        builder.store(arguments[2], _address(context, builder, signature, arguments))

    return types.void(array, types.intp, array.dtype), generate


def _address(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
    array = context.make_array(signature.args[0])(context, builder, arguments[0])
    return builder.gep(array.data, [arguments[1]])


@inlined
def _eight_bytes(lines: Bytes, at: int) -> np.uint64:
    """The bytes from ``at`` on, the first of them lowest; 0 where there are no eight any more."""
    return _load(lines, at) if at + 8 <= len(lines) else np.uint64(0)


@inlined
def _length(eight: np.uint64) -> int:
    """How many bytes there are before the first tab; 8 if there is none."""
    tabs = eight ^ np.uint64(0x0909090909090909)
    # The lowest byte that is 0 has the lowest top bit that is left.
    zeros = (tabs - np.uint64(0x0101010101010101)) & ~tabs & np.uint64(0x8080808080808080)
    lowest = (zeros & (~zeros + np.uint64(1))) >> np.uint64(7)
    length = int(np.int64((lowest * np.uint64(0x0001020304050607)) >> np.uint64(56)))
    return length if zeros else 8


@inlined
def _are_decimal(digits: np.uint64) -> bool:
    """Whether all bytes are 0 .. 9."""
    return bool((digits | (digits + np.uint64(0x7676767676767676))) & np.uint64(0x8080808080808080) == np.uint64(0))


@inlined
def _decimal_value(digits: np.uint64) -> int:
    """Eight bytes 0 .. 9 as a number, the lowest byte being the first digit: digits to pairs, to fours, to all."""
    x = digits * np.uint64(10) + (digits >> np.uint64(8))
    x = (x & np.uint64(0x00FF00FF00FF00FF)) * np.uint64(100) + ((x >> np.uint64(16)) & np.uint64(0x00FF00FF00FF00FF))
    x &= np.uint64(0x0000FFFF0000FFFF)
    return int(np.int64((x & np.uint64(0xFFFFFFFF)) * np.uint64(10000) + (x >> np.uint64(32))))


@compiled
def _behind_point(lines: Bytes, at: int) -> int:
    """Where the zeros end that follow a point at ``at``, as in ``260.0``; ``at`` itself where it is no such point."""
    if _get(lines, at) != _POINT:
        return at
    end = at + 1
    while _get(lines, end) == _ZERO:
        end += 1
    return end if 1 < end - at <= 1 + MAX_DECIMAL_DIGITS else at


@inlined
def _are_hex(eight: np.uint64) -> bool:
    """Whether all bytes are hexadecimal digits: a sum has a byte's top bit where the byte reaches a bound."""
    lower = eight | np.uint64(0x2020202020202020)
    decimal = (eight + np.uint64(0x5050505050505050)) & ~(eight + np.uint64(0x4646464646464646))  # "0" .. "9"
    letter = (lower + np.uint64(0x1F1F1F1F1F1F1F1F)) & ~(lower + np.uint64(0x1919191919191919))  # "a" .. "f"
    top_bits = np.uint64(0x8080808080808080)
    return bool((eight & top_bits == np.uint64(0)) & ((decimal | letter) & top_bits == top_bits))


@inlined
def _hex_value(eight: np.uint64) -> np.uint32:
    """Eight hexadecimal digits as a number: digits to bytes, to halves, to a word."""
    letters = (eight >> np.uint64(6)) & np.uint64(0x0101010101010101)
    x = (eight & np.uint64(0x0F0F0F0F0F0F0F0F)) + letters * np.uint64(9)
    x = ((x << np.uint64(4)) | (x >> np.uint64(8))) & np.uint64(0x00FF00FF00FF00FF)
    x = ((x << np.uint64(8)) | (x >> np.uint64(16))) & np.uint64(0x0000FFFF0000FFFF)
    return np.uint32((x << np.uint64(16)) | (x >> np.uint64(32)))


@compiled
def _parse(  # type: ignore[no-untyped-def]  # noqa: ANN202
    lines, digits, table, minimum, shift, missing,  # noqa: ANN001
    num_dense, num_sparse, records, floats, places, missing_counts,  # noqa: ANN001
):  # fmt: skip
    # Nothing reads past the end: the last byte is a newline, which no field goes over and each row takes one of.
    flag_words = (num_sparse + 32) // 32
    first_category = 1 + flag_words + num_dense
    words = first_category + num_sparse
    num_rows = len(records) // words
    at = 0
    for row in range(num_rows):
        first_word = places[row] * words
        _put(records, first_word, np.uint32(row))
        byte = _get(lines, at)
        if byte != _ZERO and byte != _ONE:
            return row
        flags = np.uint32(byte - _ZERO)
        at += 1
        if _get(lines, at) != _TAB:
            at = _behind_point(lines, at)
            if _get(lines, at) != _TAB:
                return row
        at += 1
        for column in range(num_dense):
            byte = _get(lines, at)
            if byte == _TAB:
                _put(floats, first_word + 1 + flag_words + column, missing)
                missing_counts[column] += 1
                at += 1
                continue
            negative = byte == _MINUS
            at += negative
            first = at
            eight = _eight_bytes(lines, at)
            length = _length(eight)
            # The digits, moved up so that the last one is the highest byte; what is behind them falls out.
            decimal = (eight - np.uint64(0x3030303030303030)) << np.uint64((8 - length) << 3 & 63)
            if 0 < length < 8 and _are_decimal(decimal):
                value: Any = _decimal_value(decimal)
                at += length
            else:
                value = np.int64(0)
                digit = _get(digits, np.int64(_get(lines, at)))
                while digit <= 9:
                    value = value * 10 + digit
                    at += 1
                    digit = _get(digits, np.int64(_get(lines, at)))
                if at == first or at - first > MAX_DECIMAL_DIGITS:
                    return row
                if _get(lines, at) != _TAB:
                    at = _behind_point(lines, at)
                    if _get(lines, at) != _TAB:
                        return row
            at += 1
            if negative:
                value = -value
            if _TABLE_FIRST <= value < _TABLE_LAST:
                _put(floats, first_word + 1 + flag_words + column, _get(table, value - _TABLE_FIRST))
            else:
                transformed = np.float32(math.log(max(np.float64(value), minimum) + shift))
                _put(floats, first_word + 1 + flag_words + column, transformed)
        for column in range(num_sparse):
            first = at
            eight = _eight_bytes(lines, at)
            if _are_hex(eight):
                category = _hex_value(eight)
                at += 8
            else:
                category = np.uint32(0)
                digit = _get(digits, np.int64(_get(lines, at)))
                while digit <= 15:
                    category = (category << np.uint32(4)) | digit
                    at += 1
                    digit = _get(digits, np.int64(_get(lines, at)))
                if at - first > MAX_HEX_DIGITS:
                    return row
                if at == first:
                    missing_counts[num_dense + column] += 1
                    flags |= np.uint32(1) << np.uint32((1 + column) & 31)
            if (1 + column) & 31 == 31:
                _put(records, first_word + 1 + ((1 + column) >> 5), flags)
                flags = np.uint32(0)
            _put(records, first_word + first_category + column, category)
            if column < num_sparse - 1:
                if _get(lines, at) != _TAB:
                    return row
            else:
                if _get(lines, at) == _RETURN:
                    at += 1
                if _get(lines, at) != _NEWLINE:
                    return row
            at += 1
        if num_sparse & 31 != 31:
            _put(records, first_word + flag_words, flags)
    return num_rows
