"""Stack distances of a stream of ids, and streams with given stack distances, in O(log n) a reference.

The *LRU stack* holds the distinct ids of a stream so far, the most recent on top. The *stack distance* of a reference is
its id's place in it: 1 for the id that was just referenced, d where d - 1 other ids came since. A *cold* reference, the
first one of its id, has none and is written as distance 0. A cache of C rows that evicts the least recently used one
(LRU) hits exactly the references of distances 1 .. C (Mattson et al., "Evaluation techniques for storage hierarchies",
1970), which is why the distribution of distances says all about every such cache.

The stack is kept as a set of *slots*: references in order of time, of which those are *live* that are the last one of
their id so far. The live slots are one bit each, with a Fenwick tree (Fenwick 1994) over the sums of their 64-bit words, so
that ten million references need two megabytes, which stay in the cache.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from dlrm.compiled import compiled

_WORD = 64
_FEWEST_SLOTS = 1 << 16
_NEXT_SLOT, _DEPTH, _OWED = 0, 1, 2
_ONE = np.uint64(1)
_PAIRS, _NIBBLES, _BYTES, _SUM = (
    np.uint64(bits) for bits in (0x5555555555555555, 0x3333333333333333, 0x0F0F0F0F0F0F0F0F, 0x0101010101010101)
)


def stack_distances(ids_M: NDArray[np.integer]) -> NDArray[np.int32]:
    """The stack distance of every reference (arXiv:1906.00091, algorithm 1); 0 where it is cold.

    Args:
        ids_M: any integers, fewer than 2^31 of them. Needs about 30 bytes a reference beside them.
    """
    distinct, index_M = np.unique(ids_M, return_inverse=True)
    words, tree = _no_slots(len(ids_M))
    distances_M = np.empty(len(ids_M), np.int32)
    _profile(index_M, np.full(len(distinct), -1, np.int32), words, tree, distances_M)
    return distances_M


class LruStack:
    """A stream with given stack distances (arXiv:1906.00091, algorithm 2), piece by piece.

    Ids are numbered 0, 1, 2, ... in order of their first reference. Where the paper redraws a distance that the stack is
    not yet deep enough for, which makes large distances too rare, here such a reference is cold, and its distance is
    *owed*: the next time that a cold reference is asked for, the smallest owed distance that the stack is deep enough for
    takes its place. Thus exactly the distances asked for come out (but for those still owed at the end), the cold
    references among them earlier: as in a recorded stream.

    Once all rows of the table are in use, there is no new id left: a cold reference, and one of a distance beyond the
    table, goes to the row that was unused for longest, whose distance is the number of rows. Every cache smaller than the
    table misses it, as it should.

    Memory: 8.2 bytes a slot; slots are at least 65,536 and at most four times the ids in use.

    Args:
        rows: most distinct ids, below 2^31.
    """

    def __init__(self, rows: int) -> None:
        self._rows = rows
        self._state = np.zeros(3, np.int64)
        self._allocate(np.empty(0, np.int32))
        self._owed = np.empty(len(self._ids), np.int32)

    @property
    def depth(self) -> int:
        """Distinct ids so far."""
        return int(self._state[_DEPTH])

    @property
    def owed(self) -> int:
        """Distances that were asked for and are yet to come."""
        return int(self._state[_OWED])

    def replay(self, distances_M: NDArray[np.int64]) -> NDArray[np.int32]:
        """The next references.

        Args:
            distances_M: at least 0; 0 asks for a cold reference.
        """
        ids_M = np.empty(len(distances_M), np.int32)
        done = 0
        while done < len(ids_M):
            if self._state[_NEXT_SLOT] == len(self._ids):
                self._compact()
            done += _replay(
                distances_M[done:],
                self._rows,
                self._words,
                self._tree,
                self._ids,
                self._owed,
                self._state,
                ids_M[done:],
            )
        return ids_M

    def _compact(self) -> None:
        """Move the live slots together; at least every other slot is free afterwards."""
        live = np.unpackbits(self._words.view(np.uint8), bitorder="little")
        self._allocate(self._ids[live.view(np.bool_)])
        owed = np.empty(len(self._ids), np.int32)  # never more than ids in use
        owed[: self.owed] = self._owed[: self.owed]
        self._owed = owed

    def _allocate(self, live_ids: NDArray[np.int32]) -> None:
        """Slots for twice the ids in use, these in the first ones."""
        live = len(live_ids)
        slots = -(-max(2 * live, _FEWEST_SLOTS) // _WORD) * _WORD
        self._words, self._tree = _no_slots(slots)
        self._ids = np.empty(slots, np.int32)
        self._ids[:live] = live_ids
        self._words.view(np.uint8)[: -(-live // 8)] = np.packbits(np.ones(live, np.bool_), bitorder="little")
        _build_tree(self._words, self._tree)
        self._state[_NEXT_SLOT] = live


def _no_slots(slots: int) -> tuple[NDArray[np.uint64], NDArray[np.int32]]:
    """Words of bits for so many slots, and the Fenwick tree over them (from index 1); no slot is live."""
    words = np.zeros(-(-slots // _WORD), np.uint64)
    return words, np.zeros(len(words) + 1, np.int32)


@compiled
def _profile(
    index_M: NDArray[np.int64],
    last_slot: NDArray[np.int32],
    words: NDArray[np.uint64],
    tree: NDArray[np.int32],
    distances_M: NDArray[np.int32],
) -> None:
    depth = 0
    for m in range(len(index_M)):
        slot = last_slot[index_M[m]]
        if slot < 0:
            distances_M[m] = 0
            depth += 1
        else:
            distances_M[m] = depth - _live_before(words, tree, slot)
            _clear(words, tree, slot)
        _set(words, tree, m)
        last_slot[index_M[m]] = m


@compiled
def _replay(
    distances_M: NDArray[np.int64],
    rows: int,
    words: NDArray[np.uint64],
    tree: NDArray[np.int32],
    slot_ids: NDArray[np.int32],
    owed: NDArray[np.int32],
    state: NDArray[np.int64],
    ids_M: NDArray[np.int32],
) -> int:
    """Write references until there are no distances or no free slots left; returns how many."""
    slot, depth, num_owed = state[_NEXT_SLOT], state[_DEPTH], state[_OWED]
    count: int = min(len(distances_M), len(slot_ids) - slot)
    for m in range(count):
        distance = min(distances_M[m], rows)
        if distance > depth:
            _heap_push(owed, num_owed, distance)
            num_owed += 1
            distance = 0
        elif distance == 0 and num_owed > 0 and owed[0] <= depth:
            distance = _heap_pop(owed, num_owed)
            num_owed -= 1
        if distance == 0 and depth < rows:
            ids_M[m] = depth
            depth += 1
        else:
            found = _live_slot(words, tree, depth - distance if distance > 0 else 0)
            ids_M[m] = slot_ids[found]
            _clear(words, tree, found)
        _set(words, tree, slot)
        slot_ids[slot] = ids_M[m]
        slot += 1
    state[_NEXT_SLOT], state[_DEPTH], state[_OWED] = slot, depth, num_owed
    return count


@compiled
def _ones(word: np.uint64) -> np.int64:
    """Bits that are set (Warren, Hacker's Delight, section 5-1)."""
    word = word - ((word >> _ONE) & _PAIRS)
    word = (word & _NIBBLES) + ((word >> np.uint64(2)) & _NIBBLES)
    word = (word + (word >> np.uint64(4))) & _BYTES
    return np.int64((word * _SUM) >> np.uint64(56))


@compiled
def _build_tree(words: NDArray[np.uint64], tree: NDArray[np.int32]) -> None:
    for w in range(1, len(tree)):
        tree[w] += _ones(words[w - 1])
        above = w + (w & -w)
        if above < len(tree):
            tree[above] += tree[w]


@compiled
def _set(words: NDArray[np.uint64], tree: NDArray[np.int32], slot: int) -> None:
    words[slot >> 6] |= _ONE << np.uint64(slot & 63)
    _add(tree, slot, 1)


@compiled
def _clear(words: NDArray[np.uint64], tree: NDArray[np.int32], slot: int) -> None:
    words[slot >> 6] &= ~(_ONE << np.uint64(slot & 63))
    _add(tree, slot, -1)


@compiled
def _add(tree: NDArray[np.int32], slot: int, amount: int) -> None:
    node = (slot >> 6) + 1
    while node < len(tree):
        tree[node] += amount
        node += node & -node


@compiled
def _live_before(words: NDArray[np.uint64], tree: NDArray[np.int32], slot: int) -> int:
    """Live slots older than ``slot``."""
    node = slot >> 6
    count = int(_ones(words[node] & ((_ONE << np.uint64(slot & 63)) - _ONE)))
    while node > 0:
        count += tree[node]
        node &= node - 1
    return count


@compiled
def _live_slot(words: NDArray[np.uint64], tree: NDArray[np.int32], rank: int) -> int:
    """The live slot that has ``rank`` older ones."""
    node, step = 0, 1
    while step * 2 < len(tree):
        step *= 2
    while step > 0:
        if node + step < len(tree) and tree[node + step] <= rank:
            node += step
            rank -= tree[node]
        step >>= 1
    word = words[node]
    for _ in range(rank):
        word &= word - _ONE
    lowest = word & (~word + _ONE)
    return node * 64 + int(_ones(lowest - _ONE))


@compiled
def _heap_push(heap: NDArray[np.int32], size: int, value: int) -> None:
    """Add to a binary heap (smallest first) of ``size`` values."""
    place = size
    while place > 0 and heap[(place - 1) >> 1] > value:
        heap[place] = heap[(place - 1) >> 1]
        place = (place - 1) >> 1
    heap[place] = value


@compiled
def _heap_pop(heap: NDArray[np.int32], size: int) -> int:
    """Take the smallest of ``size`` values."""
    smallest: int = heap[0]
    value = heap[size - 1]
    place, child = 0, 1
    while child < size - 1:
        if child + 1 < size - 1 and heap[child + 1] < heap[child]:
            child += 1
        if value <= heap[child]:
            break
        heap[place] = heap[child]
        place, child = child, 2 * child + 1
    heap[place] = value
    return smallest
