"""What becomes of a bucket's ids in a step.

A *slot* is a place for an id in a bucket; the slots of all buckets, one after the other, are the table's rows that ids
have for themselves. A slot knows its id, how often it was seen, and the last step in which it was. An id is searched from
the slot that its hash says, round the bucket: no slot is ever emptied, so the search ends at the first that is empty.

*Candidates* are ids without a row, of which is known how often they were seen; they have slots of their own.

The ids of a step are taken in two passes over each bucket: first those that have a row, then the others, in the order of
their hashes. So nothing depends on the order in which ids come, and no id of the step loses its row to another of the same
step. Counts are those of the whole global batch.
"""

from __future__ import annotations

from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from dlrm.compiled import compiled, inlined
from dlrm.counter_rng import mix64

EMPTY: Final = -1
"""The id of a slot that has none."""
NO_ROW: Final = -1
"""The row of an id that has none for itself."""
NONE, LRU, LFU, AGE = range(4)
"""How ids are evicted."""
MOST_SEEN: Final = 2**31 - 1
_HALF = np.uint64(32)
_LOW = np.uint64(0xFFFFFFFF)


class Slots(NamedTuple):
    """Of K consecutive buckets with W slots each.

    Attributes:
        ids: int64 (K, W), EMPTY where there is none.
        counts: int32 (K, W), how often each was seen, up to MOST_SEEN; of LFU as it was in the step it was last seen in.
        seen: int32 (K, W), the last step in which it was.
    """

    ids: NDArray[np.int64]
    counts: NDArray[np.int32]
    seen: NDArray[np.int32]

    @classmethod
    def empty(cls, buckets: int, ways: int) -> Slots:
        """Without an id."""
        shape = buckets, ways
        return cls(np.full(shape, EMPTY, np.int64), np.zeros(shape, np.int32), np.zeros(shape, np.int32))


@inlined
def hash_of(id_: np.int64) -> np.uint64:
    """64 mixed bits, of each id others."""
    return mix64(np.uint64(0), np.uint64(id_))


@inlined
def share_of(bits: np.uint64, parts: int) -> int:
    """One of ``parts`` (below 2^31) equal parts of the range of the upper 32 bits."""
    return np.int64(((bits >> _HALF) * np.uint64(parts)) >> _HALF)  # type: ignore[return-value]  # whole numbers


@inlined
def _home(bits: np.uint64, ways: int) -> int:
    """Where in its bucket the search for an id begins: the lower bits say, as the upper ones have chosen the bucket."""
    return np.int64(((bits & _LOW) * np.uint64(ways)) >> _HALF)  # type: ignore[return-value]


@inlined
def _find(ids_W: np.ndarray, id_: int, home: int) -> int:
    """The slot of an id; ``-1 - slot`` of the first empty one where there is none; ``-1 - W`` where none is empty."""
    ways = len(ids_W)
    slot = home
    for _ in range(ways):
        if ids_W[slot] == id_:
            return slot
        if ids_W[slot] == EMPTY:
            return -1 - slot
        slot += 1
        if slot == ways:
            slot = 0
    return -1 - ways


@inlined
def _more(count: int, amount: int) -> int:
    return min(count + amount, MOST_SEEN)


@inlined
def _halved(count: int, seen: int, step: int, halve_steps: int) -> int:
    """A count of step ``seen`` as it is in ``step``: halved at every multiple of ``halve_steps`` in between."""
    return count >> min(step // halve_steps - seen // halve_steps, 31)


@inlined
def _victim(counts_W: np.ndarray, seen_W: np.ndarray, step: int, policy: int, steps: int) -> int:
    """The slot of the id that makes way, the first of several; -1: none does. None of this step does."""
    victim, fewest, longest = -1, MOST_SEEN, step
    if policy == NONE:
        return victim
    for slot in range(len(seen_W)):
        seen = seen_W[slot]
        if seen == step or (policy == AGE and step - seen < steps):
            continue
        count = _halved(counts_W[slot], seen, step, steps) if policy == LFU else 0
        if victim < 0 or count < fewest or (count == fewest and seen < longest):
            victim, fewest, longest = slot, count, seen
    return victim


@inlined
def _candidate(
    ids_W: np.ndarray, counts_W: np.ndarray, seen_W: np.ndarray, id_: int, amount: int, step: int, times: int
) -> int:
    """Count an id that has no row: how often it was seen if that is enough, and it is a candidate no more; else 0.

    Where no slot is left for it, the candidate that was seen longest ago, the first of several, makes way; none of this
    step does.
    """
    place = -1
    for slot in range(len(ids_W)):
        if ids_W[slot] == id_:
            amount, place = _more(counts_W[slot], amount), slot
            break
        if ids_W[slot] == EMPTY:
            if place < 0 or ids_W[place] != EMPTY:
                place = slot
        elif seen_W[slot] != step and (place < 0 or (ids_W[place] != EMPTY and seen_W[slot] < seen_W[place])):
            place = slot
    found = place >= 0 and ids_W[place] == id_
    if amount >= times:
        if found:
            ids_W[place], counts_W[place], seen_W[place] = EMPTY, 0, 0
        return amount
    if place >= 0:
        ids_W[place], counts_W[place], seen_W[place] = id_, amount, step
    return 0


@compiled
def assign(
    ids_U: np.ndarray,
    amounts_U: np.ndarray,
    step: int,
    first_bucket: int,
    buckets: int,
    slots: Slots,
    candidates: Slots,
    times: int,
    policy: int,
    steps: int,
    rows_U: np.ndarray,
    fresh_U: np.ndarray,
) -> int:
    """Give the ids of a step their rows.

    Args:
        ids_U: int64 (U,), each once, of these buckets, in the order of their hashes.
        amounts_U: int64 (U,), how often each is in the global batch.
        step: its number, from 1.
        first_bucket: number of the first of these buckets.
        buckets: how many there are, of all ranks.
        slots: of these buckets; changed in place.
        candidates: of these buckets; changed in place.
        times: an id has to be seen so often; where that is 1 there are no candidates.
        policy: NONE, LRU, LFU or AGE.
        steps: LFU halves, or AGE evicts, after so many.
        rows_U: int64 (U,): the row of each id, or NO_ROW, is written here.
        fresh_U: int64 (U,): the rows that have changed hands are written to the front of it.

    Returns:
        How many have.
    """
    ids_KW, counts_KW, seen_KW = slots
    other_ids_KW, other_counts_KW, other_seen_KW = candidates
    ways, start, taken = ids_KW.shape[1], 0, 0
    while start < len(ids_U):
        bucket = share_of(hash_of(ids_U[start]), buckets)
        k = bucket - first_bucket
        stop = start
        while stop < len(ids_U):  # those that have a row
            bits = hash_of(ids_U[stop])
            if share_of(bits, buckets) != bucket:
                break
            slot = _find(ids_KW[k], ids_U[stop], _home(bits, ways))
            rows_U[stop] = NO_ROW
            if slot >= 0:
                count = counts_KW[k, slot]
                if policy == LFU:
                    count = _halved(count, seen_KW[k, slot], step, steps)
                counts_KW[k, slot] = _more(count, amounts_U[stop])
                seen_KW[k, slot] = step
                rows_U[stop] = bucket * ways + slot
            stop += 1
        for u in range(start, stop):  # the others
            if rows_U[u] != NO_ROW:
                continue
            id_, count = ids_U[u], min(amounts_U[u], MOST_SEEN)
            if times > 1:
                count = _candidate(other_ids_KW[k], other_counts_KW[k], other_seen_KW[k], id_, count, step, times)
                if count == 0:
                    continue
            slot = -1 - _find(ids_KW[k], id_, _home(hash_of(id_), ways))
            if slot == ways:
                slot = _victim(counts_KW[k], seen_KW[k], step, policy, steps)
                if slot < 0:
                    if times > 1:  # it will be admitted as soon as there is a slot for it
                        _candidate(
                            other_ids_KW[k], other_counts_KW[k], other_seen_KW[k], id_, count, step, MOST_SEEN + 1
                        )
                    continue
                fresh_U[taken] = bucket * ways + slot
                taken += 1
            ids_KW[k, slot], counts_KW[k, slot], seen_KW[k, slot] = id_, count, step
            rows_U[u] = bucket * ways + slot
        start = stop
    return taken


@compiled
def look_up(ids_U: np.ndarray, first_bucket: int, buckets: int, ids_KW: np.ndarray, rows_U: np.ndarray) -> None:
    """Write the row of each id, or NO_ROW, to ``rows_U``; the ids are of these buckets, as above."""
    ways = ids_KW.shape[1]
    for u in range(len(ids_U)):
        bits = hash_of(ids_U[u])
        bucket = share_of(bits, buckets)
        slot = _find(ids_KW[bucket - first_bucket], ids_U[u], _home(bits, ways))
        rows_U[u] = bucket * ways + slot if slot >= 0 else NO_ROW


@compiled
def hashes(ids_N: np.ndarray) -> np.ndarray:
    """uint64 (N,), the hash of each id."""
    bits_N = np.empty(len(ids_N), np.uint64)
    for n in range(len(ids_N)):
        bits_N[n] = hash_of(ids_N[n])
    return bits_N
