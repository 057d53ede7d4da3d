"""How often each raw category occurs, as far as a threshold needs to know: counters in a fixed amount of memory.

Raw categories are 32-bit values, so there is room for a counter for each of them: with a threshold of 1 a bitmap of 512
MiB, otherwise counters of 2, 4, 8 or 16 bits in slices of the value space that take the same 512 MiB each. The memory
is touched only where values occur, and a map of its pages says where that is.

Terms:
    full: the count at which a counter stops, the threshold; more need not be known.
    slice: the values ``first .. first + 2^32 / bits - 1``, whose counters are in memory together.
    word: 64 bits, that is 64 / bits counters, those of lower values in lower bits.
    page: 512 words, 4 KiB; *touched* once one of its counters is not 0.
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
SLICE_BYTES = VALUES // 8
PAGE_WORDS = 512
PAGES = SLICE_BYTES // (8 * PAGE_WORDS)
_PAGES_AT_A_TIME = 64  # whose values fill at most 8 MiB

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
    """The counters of one slice of the value space, all 0 at first.

    Args:
        full: count at which a counter stops, 1 .. 65535.
        number: which of the ``counter_bits(full)`` slices.
        missing_is_zero: count a missing category as the value 0; otherwise it is not counted.

    Attributes:
        words_PW: uint64 (P, 512), the counters by page.
        touched_P: uint8 (P,), 1 where a page is touched.
    """

    def __init__(self, full: int, number: int, *, missing_is_zero: bool) -> None:
        self.full = full
        self.bits = counter_bits(full)
        self.touched_P = np.zeros(PAGES, np.uint8)
        self._log2_bits = self.bits.bit_length() - 1
        self._first = number * (VALUES // self.bits)
        self._missing_is_zero = missing_is_zero
        # The page beyond the slice is for the values that a thread does not own: its last counter is full from the start.
        self._memory = mmap.mmap(-1, SLICE_BYTES + 8 * PAGE_WORDS, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        self._words = np.frombuffer(self._memory, np.uint64)
        self._words[-1] = np.iinfo(np.uint64).max
        self.words_PW = self._words[: PAGES * PAGE_WORDS].reshape(PAGES, PAGE_WORDS)

    def expect(self, *, many_values: bool) -> None:
        """Choose how much memory the first value in a range touches: 2 MiB, which is faster for many values, or 4 KiB.

        With 2 MiB a few hundred values, spread as hashes are, would touch all of the slice.
        """
        advice = "MADV_HUGEPAGE" if many_values else "MADV_NOHUGEPAGE"
        if hasattr(mmap, advice):
            with contextlib.suppress(OSError):  # a kernel that has no such pages; everything else is the same
                self._memory.madvise(getattr(mmap, advice))

    def add(self, columns: Iterable[tuple[UInt32s, Bools]], *, part: int = 0, parts: int = 1) -> None:
        """Count the values of one of ``parts`` ranges that the slice is cut into.

        The ranges have no word in common, so that as many threads can count the same columns at the same time.

        Args:
            columns: raw values uint32 (M,) and where they are missing, bool (M,).
            part: which range, 0 .. parts - 1.
            parts: number of ranges.
        """
        page_values = PAGE_WORDS * 64 // self.bits
        begin, end = (PAGES * edge // parts * page_values for edge in (part, part + 1))
        for categories_M, missing_M in columns:
            _count(
                read_only(categories_M), read_only(missing_M), self._missing_is_zero,
                np.uint64(self._first), np.uint64(begin), np.uint64(end),
                np.uint64(self._log2_bits), np.uint64(self.full), self._words, self.touched_P,
            )  # fmt: skip

    def full_values(self) -> Iterator[UInt32s]:
        """The values whose counters are full, ascending, in arrays that are overwritten by the next ones."""
        pages = np.flatnonzero(self.touched_P)
        values = np.empty(_PAGES_AT_A_TIME * PAGE_WORDS * 64 // self.bits, np.uint32)
        for start in range(0, len(pages), _PAGES_AT_A_TIME):
            count = _select_full(
                self.words_PW, pages[start : start + _PAGES_AT_A_TIME],
                np.uint64(self._first), np.uint64(self._log2_bits), np.uint64(self.full), values,
            )  # fmt: skip
            yield values[:count]

    def unpacked(self, pages: Int64s) -> UInt64s:
        """The counts uint64 (pages, 512, 64 / bits) of some pages."""
        shifts, mask = np.arange(0, 64, self.bits, dtype=np.uint64), np.uint64(2**self.bits - 1)
        return (self.words_PW[pages, :, None] >> shifts) & mask

    def replace(self, pages: Int64s, counts: npt.NDArray[np.integer]) -> None:
        """Set the counts of some pages, shaped as :meth:`unpacked` gives them; beyond ``full`` they are full."""
        shifts = np.arange(0, 64, self.bits, dtype=np.uint64)
        filled = np.minimum(counts, self.full).astype(np.uint64)
        self.words_PW[pages] = np.bitwise_or.reduce(filled << shifts, axis=-1)


def read_only(array: npt.NDArray[T]) -> npt.NDArray[T]:
    """A read-only, contiguous, plain view, so that compiled code exists once for arrays of all kinds."""
    view = np.ascontiguousarray(array).view(np.ndarray)
    view.flags.writeable = False
    return view


@njit(nogil=True, cache=True)  # type: ignore[untyped-decorator]
def _count(
    categories_M: UInt32s,
    missing_M: Bools,
    missing_is_zero: bool,
    first: np.uint64,
    begin: np.uint64,
    end: np.uint64,
    log2_bits: np.uint64,
    full: np.uint64,
    words: UInt64s,
    touched_P: npt.NDArray[np.uint8],
) -> None:
    """Count the values ``first + begin .. first + end - 1``.

    There is no jump that depends on who owns a value, which a processor would guess wrong half of the time: those of
    others go to the last counter, which is full.
    """
    log2_counters = np.uint64(6) - log2_bits
    place_mask = (np.uint64(1) << log2_counters) - np.uint64(1)
    count_mask = (np.uint64(1) << (np.uint64(1) << log2_bits)) - np.uint64(1)
    size = end - begin
    beyond = np.uint64(words.shape[0] - 1)
    for i in range(categories_M.shape[0]):
        value = np.uint64(0) if missing_M[i] else np.uint64(categories_M[i])
        offset = value - first  # wraps around below the slice
        owned = ((offset - begin) < size) & (missing_is_zero | (not missing_M[i]))
        word = offset >> log2_counters if owned else beyond
        shift = (offset & place_mask) << log2_bits
        counts = words[word]
        if ((counts >> shift) & count_mask) < full:
            words[word] = counts + (np.uint64(1) << shift)
            touched_P[word >> np.uint64(9)] = 1


@njit(nogil=True, cache=True)  # type: ignore[untyped-decorator]
def _select_full(
    words_PW: UInt64s, pages: Int64s, first: np.uint64, log2_bits: np.uint64, full: np.uint64, values: UInt32s
) -> int:
    """Write the values of the pages' full counters; returns how many there are."""
    log2_counters = np.uint64(6) - log2_bits
    count_mask = (np.uint64(1) << (np.uint64(1) << log2_bits)) - np.uint64(1)
    found = 0
    for page in pages:
        for w in range(PAGE_WORDS):
            counts = words_PW[page, w]
            while counts:
                lowest_bit = counts & (~counts + np.uint64(1))
                place = _POSITION_OF_PRODUCT[(lowest_bit * np.uint64(_DE_BRUIJN)) >> np.uint64(58)] >> log2_bits
                shift = place << log2_bits
                if (counts >> shift) & count_mask >= full:
                    values[found] = first + (np.uint64(page * PAGE_WORDS + w) << log2_counters) + place
                    found += 1
                counts &= ~(count_mask << shift)
    return found
