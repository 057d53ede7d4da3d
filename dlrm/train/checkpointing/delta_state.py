"""What each checkpoint of a run holds where most of them are deltas: everything, or the dirty rows."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import torch

from dlrm.checkpoint.delta.collect import can_be_restored, dirty_tensors
from dlrm.checkpoint.delta.format import MAX_REPLAYED_STEPS, AverageRecord, Bits, DeltaRecord, DirtyShard, Link
from dlrm.checkpoint.delta.quantise import quantised
from dlrm.checkpoint.saver import SaveReport
from dlrm.checkpoint.stored import Checkpoint
from dlrm.checkpoint.tensors import GlobalTensor, tensors_by_table
from dlrm.distributed.collectives import Collectives, from_rank_0
from dlrm.optim.averaging import ExponentialAverage
from dlrm.sharding.dirty_rows import DirtyRows
from dlrm.table_names import state_name
from dlrm.train.checkpointing.state import engine_tensors
from dlrm.train.engine import Engine

LARGEST_PART = 0.75
"""Of the bytes of the tables: where dirty rows take more, everything is saved instead, which ends the chain. Half would
do so too early for small tables: a quarter saved each time is more than a shorter chain saves when it is read."""
_Shards = dict[str, tuple[tuple[int, int, int, int], ...]]


class DeltaState:
    """Collects the training state for checkpoints, of which every so many-th is full.

    Full are also the first one, the first after a resume, those whose dirty rows would be too many, or whose numbers
    cannot be quantised, and the one after something has happened to what a delta would depend on. What became of a
    checkpoint is told by :meth:`on_saved` before the next is collected; what was collected and not saved counts as in no
    checkpoint. Rows are followed from the making of this object on.

    Args:
        engine: whose state is saved.
        collectives: of the training.
        full_every: 1 makes every checkpoint full.
        bits: of a weight in the others; with 8 the state of dense optimizers has 16.
        average_decay: of the engine's average; 0 if it has none.
        full_at_first: how many checkpoints are full before the first delta: two where nothing else is kept, so that
            never all that is kept depends on one file.
        fault: says on rank 0 why no delta may depend on the checkpoints since the last full one; empty: one may.
        say: is told, on every rank, where a checkpoint is full for that.
    """

    def __init__(
        self,
        engine: Engine,
        collectives: Collectives,
        *,
        full_every: int,
        bits: Bits,
        average_decay: float = 0.0,
        full_at_first: int = 1,
        fault: Callable[[], str] = str,
        say: Callable[[str], None] = lambda line: None,
    ) -> None:
        if (average_decay > 0) != isinstance(engine.average, ExponentialAverage):
            raise ValueError(f"average_decay is {average_decay}, which is not that of the engine's average")
        self._engine, self._collectives = engine, collectives
        self._full_every, self._bits, self._average_decay = full_every, bits, average_decay
        self._collected_average = self._saved_average = 0  # steps in the average, last collected and last committed
        self._fault, self._say = fault, say
        self._full_at_first, self._full_so_far = full_at_first, 0
        self._dirty = DirtyRows(engine.model)
        self._since_full: int | None = None  # deltas; None: there is nothing that one could depend on
        self._collected: Literal["full", "delta"] | None = None
        self._base: Link | None = None  # these two on rank 0 alone
        self._parent: Link | None = None

    def collect(self) -> tuple[Sequence[GlobalTensor], dict[str, Any]]:
        """What the next checkpoint holds, and metadata for its manifest; collective, between steps."""
        self._dirty.rollback()  # collected to take memory for it, for example
        # The tables are called as in the state.
        rows = {}
        for shard, rows_N in self._dirty.take().items():
            columns = min(shard.columns, self._engine.widths[shard.table] - shard.first_column)  # without padding
            rows[DirtyShard(*shard)._replace(table=state_name(shard.table), columns=columns)] = rows_N
        state = engine_tensors(self._engine)
        self._collected_average = self._average_steps()
        found = self._delta(state, rows) if self._may_be_a_delta() else None
        self._collected = "full" if found is None else "delta"
        return found or (state, {})

    def _may_be_a_delta(self) -> bool:
        """Whether what has been saved lets the next one be a delta."""
        if self._since_full is None or self._since_full + 1 >= self._full_every:
            return False
        if self._full_so_far < self._full_at_first:
            return False
        if not 0 <= self._collected_average - self._saved_average <= MAX_REPLAYED_STEPS:
            return False
        fault = from_rank_0(self._collectives, self._fault)
        if fault:
            self._say(f"warning: {fault}; what depends on it is lost, and everything is saved instead of another delta")
        return not fault

    def _delta(
        self, state: Sequence[GlobalTensor], rows: Mapping[DirtyShard, torch.Tensor]
    ) -> tuple[Sequence[GlobalTensor], dict[str, Any]] | None:
        """The state as a delta; None where that is not worth it, or not all can be quantised."""
        tables = tensors_by_table(state)
        dirty = dirty_tensors(tables, rows, self._bits)
        others = [quantised(tensor) for tensor in state] if self._bits == 8 else list(state)
        finite = self._bits == 32 or can_be_restored([*dirty, *others])
        shards = self._agreed_shards(tables, dirty, list(rows), finite=finite)
        if shards is None:
            return None
        partial = {tensor.name for table in shards for tensor in tables[table].values()}
        tensors = [tensor for tensor in others if tensor.name not in partial] + dirty
        if self._base is None or self._parent is None:  # not rank 0, whose metadata count
            return tensors, {}
        average = None
        if self._average_decay > 0:
            average = AverageRecord(decay=self._average_decay, first=self._saved_average, last=self._collected_average)
        record = DeltaRecord(base=self._base, parent=self._parent, bits=self._bits, shards=shards, average=average)
        return tensors, record.metadata()

    def on_saved(self, report: SaveReport | None) -> None:
        """What was collected last was committed, or (None) is in no checkpoint; the same on every rank."""
        collected, self._collected = self._collected, None
        if collected is None:
            return
        if report is None:
            self._dirty.rollback()
            return
        self._dirty.commit()
        self._saved_average = self._collected_average
        link = None
        if report.manifest_checksum is not None:
            link = Link(step=report.step, manifest_checksum=report.manifest_checksum)
        if collected == "full":
            self._since_full, self._base = 0, link
            self._full_so_far += 1
        else:
            self._since_full = (self._since_full or 0) + 1
        self._parent = link

    def resumed(self, checkpoint: Checkpoint | None) -> None:
        """Training goes on from a checkpoint, or begins: the next one is full."""
        self._dirty.forget()
        self._since_full = self._collected = self._base = self._parent = None

    def _average_steps(self) -> int:
        average = self._engine.average
        return int(average.steps) if isinstance(average, ExponentialAverage) else 0

    def _agreed_shards(
        self,
        tables: Mapping[str, Mapping[str, GlobalTensor]],
        dirty: Sequence[GlobalTensor],
        mine: Sequence[DirtyShard],
        *,
        finite: bool,
    ) -> _Shards | None:
        """All ranks' shards by table; None where a delta is not worth it or, on a rank, not ``finite``."""
        whole_bytes = sum(
            shard.tensor.nbytes
            for table in {shard.table for shard in mine}
            for tensor in tables[table].values()
            for shard in tensor.shards
            if shard.primary
        )
        dirty_bytes = sum(shard.tensor.nbytes for tensor in dirty for shard in tensor.shards)
        by_rank = self._collectives.all_gather_object((whole_bytes, dirty_bytes, finite, [tuple(s) for s in mine]))
        if not all(finite for _, _, finite, _ in by_rank):
            return None
        if sum(part for _, part, _, _ in by_rank) > LARGEST_PART * sum(whole for whole, _, _, _ in by_rank):
            return None
        shards: _Shards = {}
        for table, *place in sorted(shard for _, _, _, held in by_rank for shard in held):
            shards[table] = (*shards.get(table, ()), tuple(place))
        return shards or None
