"""How often each raw category occurs, as far as a threshold needs to know: counters in a fixed amount of memory.

Raw categories are 32-bit values, so there is room for a counter for each of them: with a threshold of 1 a bitmap of 512
MiB, otherwise counters of 2, 4, 8 or 16 bits in slices of the value space that take the same 512 MiB each. A map of the
lines of memory where something was counted makes finding it again as quick as it is little.

Terms:
    full: the count at which a counter stops, the threshold; more need not be known.
    slice: the values ``first .. first + 2^32 / bits - 1``, whose counters are in memory together.
    word: 64 bits, that is 64 / bits counters, those of lower values in lower bits.
    line: 8 words, a cache line; *touched* once one of its counters is not 0.
"""

from __future__ import annotations

import contextlib
import mmap
from collections.abc import Iterable, Iterator
from typing import TypeVar

import numpy as np
import numpy.typing as npt
from numba import njit

UInt32s = npt.NDArray[np.uint32]
UInt64s = npt.NDArray[np.uint64]
Bools = npt.NDArray[np.bool_]
Int64s = npt.NDArray[np.int64]
T = TypeVar("T", bound=np.generic)

VALUES = 2**32
LINE_WORDS = 8
LINES = VALUES // (64 * LINE_WORDS)  # of a slice
_GROUP_LINES = 8  # whose marks in the map are one word
_VALUES_AT_A_TIME = 1 << 20

# The position of a word's only bit that is 1: the top 6 bits of its product with a de Bruijn sequence are different for
# each of the 64 (Leiserson, Prokop and Randall, "Using de Bruijn sequences to index a 1 in a computer word", 1998).
_DE_BRUIJN = 0x03F79D71B4CB0A89
_POSITION_OF_PRODUCT = np.empty(64, np.uint64)
for _position in range(64):
    _POSITION_OF_PRODUCT[(_DE_BRUIJN << _position) % 2**64 >> 58] = _position


def counter_bits(full: int) -> int:
    """The width of counters that count to ``full``: 1, 2, 4, 8 or 16, which is also the number of slices.

    Args:
        full: 1 .. 65535.
    """
    return next(bits for bits in (1, 2, 4, 8, 16) if full < 2**bits)


class Counters:
    """The counters of one slice of the value space after the other.

    All are 0 at first, and again after :meth:`take_full_values`: the memory, of which a first use is what takes time,
    serves for the next slice and the next column.

    Args:
        full: count at which a counter stops, 1 .. 65535.
        missing_is_zero: count a missing category as the value 0; otherwise it is not counted.

    Attributes:
        full: as above; bits: width of a counter.
        words_LW: uint64 (lines, 8), the counters.
        touched_L: uint8 (lines,), 1 where a line is touched.
    """

    def __init__(self, full: int, *, missing_is_zero: bool) -> None:
        self.full = full
        self.bits = counter_bits(full)
        self.touched_L = np.zeros(LINES, np.uint8)
        self._log2_bits = self.bits.bit_length() - 1
        self._missing_is_zero = missing_is_zero
        # The last word is for the values that a thread does not own: its counters are full from the start.
        words = LINES * LINE_WORDS
        memory = mmap.mmap(-1, 8 * (words + 1), mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        if hasattr(mmap, "MADV_HUGEPAGE"):
            with contextlib.suppress(OSError):  # a kernel without them; it is 5 times faster to touch 2 MiB at a time
                memory.madvise(mmap.MADV_HUGEPAGE)
        self._words = np.frombuffer(memory, np.uint64)
        self._words[-1] = np.iinfo(np.uint64).max
        self.words_LW = self._words[:-1].reshape(LINES, LINE_WORDS)

    def add(self, columns: Iterable[tuple[UInt32s, Bools]], number: int, *, part: int = 0, parts: int = 1) -> None:
        """Count the values of one of ``parts`` ranges that a slice is cut into.

        The ranges have no line in common, so that as many threads can count the same columns at the same time.

        Args:
            columns: raw values uint32 (M,), 0 where missing, and where they are missing, bool (M,).
            number: which slice, 0 .. bits - 1.
            part: which range, 0 .. parts - 1.
            parts: number of ranges.
        """
        line_values = LINE_WORDS * 64 // self.bits
        begin, end = (np.uint64(LINES * edge // parts * line_values) for edge in (part, part + 1))
        first, log2_bits, full = np.uint64(self._first(number)), np.uint64(self._log2_bits), np.uint64(self.full)
        for categories_M, missing_M in columns:
            counted = (read_only(categories_M), read_only(missing_M), self._missing_is_zero)
            if self.bits == 1:
                _mark(*counted, begin, end, self._words, self.touched_L)
            else:
                _count(*counted, begin, end, self._words, self.touched_L, first, log2_bits, full)

    def take_full_values(self, number: int) -> Iterator[UInt32s]:
        """The values of slice ``number`` whose counters are full, ascending; afterwards all counters are 0.

        The arrays are overwritten by the next ones.
        """
        values = np.empty(_VALUES_AT_A_TIME, np.uint32)
        group = 0
        while group < LINES // _GROUP_LINES:
            count, group = _take_full(
                self.words_LW, self.touched_L.view(np.uint64), group, values,
                np.uint64(self._first(number)), np.uint64(self._log2_bits), np.uint64(self.full),
            )  # fmt: skip
            yield values[:count]

    def unpacked(self, lines: Int64s) -> UInt64s:
        """The counts uint64 (lines, 8, 64 / bits) of some lines."""
        shifts, mask = np.arange(0, 64, self.bits, dtype=np.uint64), np.uint64(2**self.bits - 1)
        return (self.words_LW[lines, :, None] >> shifts) & mask

    def replace(self, lines: Int64s, counts: npt.NDArray[np.integer]) -> None:
        """Set the counts of some lines, shaped as :meth:`unpacked` gives them; beyond ``full`` they are full."""
        shifts = np.arange(0, 64, self.bits, dtype=np.uint64)
        filled = np.minimum(counts, self.full).astype(np.uint64)
        self.words_LW[lines] = np.bitwise_or.reduce(filled << shifts, axis=-1)

    def _first(self, number: int) -> int:
        return number * (VALUES // self.bits)


def read_only(array: npt.NDArray[T]) -> npt.NDArray[T]:
    """A read-only, contiguous, plain view, so that compiled code exists once for arrays of all kinds."""
    view = np.ascontiguousarray(array).view(np.ndarray)
    view.flags.writeable = False
    return view


# In the two loops below no jump depends on who owns a value, which a processor would guess wrong half of the time: the
# values of others go to the last word, whose counters are full.


@njit(nogil=True, cache=True)  # type: ignore[untyped-decorator]
def _mark(
    categories_M: UInt32s,
    missing_M: Bools,
    missing_is_zero: bool,
    begin: np.uint64,
    end: np.uint64,
    words: UInt64s,
    touched_L: npt.NDArray[np.uint8],
) -> None:
    """Count the values ``begin .. end - 1`` to 1: the same as :func:`_count`, in two thirds of the time."""
    beyond = np.uint64(words.shape[0] - 1)
    for i in range(categories_M.shape[0]):
        value = np.uint64(categories_M[i])
        owned = ((value - begin) < end - begin) & (missing_is_zero | (not missing_M[i]))
        word = value >> np.uint64(6) if owned else beyond
        bit = np.uint64(1) << (value & np.uint64(63))
        bits = words[word]
        if not bits & bit:
            words[word] = bits | bit
            touched_L[word >> np.uint64(3)] = 1


@njit(nogil=True, cache=True)  # type: ignore[untyped-decorator]
def _count(
    categories_M: UInt32s,
    missing_M: Bools,
    missing_is_zero: bool,
    begin: np.uint64,
    end: np.uint64,
    words: UInt64s,
    touched_L: npt.NDArray[np.uint8],
    first: np.uint64,
    log2_bits: np.uint64,
    full: np.uint64,
) -> None:
    """Count the values ``first + begin .. first + end - 1`` to ``full``."""
    log2_counters = np.uint64(6) - log2_bits
    place_mask = (np.uint64(1) << log2_counters) - np.uint64(1)
    count_mask = (np.uint64(1) << (np.uint64(1) << log2_bits)) - np.uint64(1)
    beyond = np.uint64(words.shape[0] - 1)
    for i in range(categories_M.shape[0]):
        offset = np.uint64(categories_M[i]) - first  # wraps around below the slice
        owned = ((offset - begin) < end - begin) & (missing_is_zero | (not missing_M[i]))
        word = offset >> log2_counters if owned else beyond
        shift = (offset & place_mask) << log2_bits
        counts = words[word]
        if ((counts >> shift) & count_mask) < full:
            words[word] = counts + (np.uint64(1) << shift)
            touched_L[word >> np.uint64(3)] = 1


@njit(nogil=True, cache=True)  # type: ignore[untyped-decorator]
def _take_full(
    words_LW: UInt64s,
    touched_G: UInt64s,
    group: int,
    values: UInt32s,
    first: np.uint64,
    log2_bits: np.uint64,
    full: np.uint64,
) -> tuple[int, int]:
    """Write the values of full counters from a group of lines on and set its counters to 0, until no other group fits.

    Returns:
        How many there are, and the group to go on with.
    """
    log2_counters = np.uint64(6) - log2_bits
    count_mask = (np.uint64(1) << (np.uint64(1) << log2_bits)) - np.uint64(1)
    group_values = (_GROUP_LINES * LINE_WORDS) << log2_counters
    found = 0
    while group < len(touched_G) and found + group_values <= len(values):
        touched = touched_G[group]
        touched_G[group] = 0
        line = group * _GROUP_LINES
        while touched:
            if touched & np.uint64(0xFF):
                for word in range(LINE_WORDS):
                    counts = words_LW[line, word]
                    words_LW[line, word] = 0
                    value = first + (np.uint64(line * LINE_WORDS + word) << log2_counters)
                    while counts:
                        lowest_bit = counts & (~counts + np.uint64(1))
                        place = _POSITION_OF_PRODUCT[(lowest_bit * np.uint64(_DE_BRUIJN)) >> np.uint64(58)] >> log2_bits
                        shift = place << log2_bits
                        if (counts >> shift) & count_mask >= full:
                            values[found] = value + place
                            found += 1
                        counts &= ~(count_mask << shift)
            touched >>= np.uint64(8)
            line += 1
        group += 1
    return found, group
