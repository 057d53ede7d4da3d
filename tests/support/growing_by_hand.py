"""Growing tables as docs/tables.md says they work, in plain Python: one id after the other, no hash tables, no ranks."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from dlrm.config.model.growing import AdmitSeen, EvictAge, EvictLfu, GrowingEmbedding

_BITS = 2**64 - 1


def mixed(number: int) -> int:
    """SplitMix64's mixing function (Steele, Lea and Flood 2014, figure 16), of a multiple of its golden gamma."""
    z = number * 0x9E3779B97F4A7C15 & _BITS
    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9 & _BITS
    z = (z ^ z >> 27) * 0x94D049BB133111EB & _BITS
    return z ^ z >> 31


@dataclass
class Known:
    """An id, how often it was seen, and the last step in which it was."""

    id: int
    count: int
    seen: int


_Slots = list[Known | None]


class GrowingByHand:
    """All buckets of a table.

    Attributes:
        slots, candidates: what is known in each slot of each bucket, None where nothing is.
    """

    def __init__(self, config: GrowingEmbedding) -> None:
        self._config = config
        self.slots: list[_Slots] = [[None] * config.ways for _ in range(config.buckets)]
        self.candidates: list[_Slots] = [[None] * config.candidate_ways for _ in range(config.buckets)]

    def step(self, ids: Iterable[int], step: int) -> tuple[dict[int, int], list[int]]:
        """The row of each id of a step, and the rows that have changed hands."""
        amounts = Counter(ids)
        rows: dict[int, int] = {}
        fresh: list[int] = []
        for id_, amount in amounts.items():
            known = self._known(id_)
            if known is not None:
                known.count, known.seen = self._aged(known, step) + amount, step
        for id_ in sorted(amounts, key=mixed):
            if self._known(id_) is None:
                fresh += self._admit(id_, amounts[id_], step)
            rows[id_] = self.row(id_)
        return rows, fresh

    def row(self, id_: int) -> int:
        """Where an id is, or which row it shares."""
        bucket = self._bucket(id_)
        for slot, known in enumerate(self.slots[bucket]):
            if known is not None and known.id == id_:
                return bucket * self._config.ways + slot
        own = self._config.buckets * self._config.ways
        return own + mixed(id_) % (self._config.rows - own)

    def _bucket(self, id_: int) -> int:
        return (mixed(id_) >> 32) * self._config.buckets >> 32

    def _known(self, id_: int) -> Known | None:
        return next((known for known in self.slots[self._bucket(id_)] if known is not None and known.id == id_), None)

    def _aged(self, known: Known, step: int) -> int:
        if not isinstance(self._config.eviction, EvictLfu):
            return known.count
        every = self._config.eviction.halve_steps
        return known.count >> sum(at % every == 0 for at in range(known.seen + 1, step + 1))

    def _admit(self, id_: int, amount: int, step: int) -> list[int]:
        """Give the id a row if it may have one; that row, if another id had it."""
        candidates = self.candidates[self._bucket(id_)]
        if isinstance(self._config.admission, AdmitSeen):
            at = next((k for k, known in enumerate(candidates) if known is not None and known.id == id_), None)
            if at is not None and (candidate := candidates[at]) is not None:
                amount += candidate.count
                candidates[at] = None
            if amount < self._config.admission.times:
                self._remember(candidates, Known(id_, amount, step), at)
                return []
        bucket, ways = self.slots[self._bucket(id_)], self._config.ways
        home = (mixed(id_) & 2**32 - 1) * ways >> 32
        free = [slot for slot in (*range(home, ways), *range(home)) if bucket[slot] is None]
        taken = free[0] if free else self._victim(bucket, step)
        if taken is None:
            if candidates:
                self._remember(candidates, Known(id_, amount, step), None)
            return []
        bucket[taken] = Known(id_, amount, step)
        return [] if free else [self._bucket(id_) * ways + taken]

    def _remember(self, candidates: _Slots, known: Known, at: int | None) -> None:
        free = [slot for slot, other in enumerate(candidates) if other is None]
        old = [(other.seen, slot) for slot, other in enumerate(candidates) if other and other.seen != known.seen]
        places = [at] if at is not None else free or [slot for _, slot in sorted(old)]
        if places:
            candidates[places[0]] = known

    def _victim(self, bucket: _Slots, step: int) -> int | None:
        eviction = self._config.eviction
        if eviction.kind == "none":
            return None
        least = eviction.steps if isinstance(eviction, EvictAge) else 1
        by_count = isinstance(eviction, EvictLfu)
        may_go = [
            (self._aged(known, step) if by_count else 0, known.seen, slot)
            for slot, known in enumerate(bucket)
            if known is not None and step - known.seen >= least
        ]
        return min(may_go)[2] if may_go else None
