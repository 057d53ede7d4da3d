"""What each checkpoint of a run holds where most of them are increments: everything, or the touched rows."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import torch

from dlrm.checkpoint.increments import FACT, MAX_REPLAYED_STEPS, PREFIX, QUANTISED, Bits, Link, TouchedShard
from dlrm.checkpoint.reduced import PREFIX as REDUCED_PREFIX
from dlrm.checkpoint.reduced import fault_in_reduced, reduced
from dlrm.checkpoint.row_codes import encode_rows, fault_in_codes
from dlrm.checkpoint.saver import SaveReport
from dlrm.checkpoint.stored import Checkpoint
from dlrm.checkpoint.tensors import Block, LogicalTensor
from dlrm.checkpoint.touched import tensors_by_table
from dlrm.distributed.collectives import Collectives, from_rank_0
from dlrm.optim.averaging import ExponentialAverage
from dlrm.sharding.touched_rows import Shard, TouchedRows
from dlrm.table_names import state_name
from dlrm.train.engine import Engine
from dlrm.train.state import engine_tensors

LARGEST_PART = 0.75
"""Of the bytes of the tables: where touched rows take more, everything is saved instead, which ends the chain. Half would
do so too early for small tables: a quarter saved each time is more than a shorter chain saves when it is read."""
_QUANTISED_ENDS = tuple(f".{name}" for name in QUANTISED)


class IncrementalState:
    """Collects the training state for checkpoints, of which every so many-th is full.

    Full are also the first one, the first after a resume, those whose touched rows would be too many, or whose numbers
    cannot be quantised, and the one after something has happened to what an increment would stand on. What became of a
    checkpoint is told by :meth:`settled` before the next is collected; what was collected and not settled counts as in no
    checkpoint. Rows are followed from the making of this object on.

    Args:
        engine: whose state is saved.
        collectives: of the training.
        full_every: 1 makes every checkpoint full.
        bits: of a weight in the others; with 8 the state of dense optimizers has 16.
        average_decay: of the engine's average; 0 if it has none.
        full_at_first: how many checkpoints are full before the first increment: two where nothing else is kept, so that
            never all that is kept stands on one file.
        chain_fault: says on rank 0 why no increment may stand on the checkpoints since the last full one; empty: one may.
        say: is told, on every rank, where a checkpoint is full for that.
    """

    def __init__(
        self,
        engine: Engine,
        collectives: Collectives,
        *,
        full_every: int,
        bits: Literal[8, 32],
        average_decay: float = 0.0,
        full_at_first: int = 1,
        chain_fault: Callable[[], str] = str,
        say: Callable[[str], None] = lambda line: None,
    ) -> None:
        if (average_decay > 0) != isinstance(engine.average, ExponentialAverage):
            raise ValueError(f"average_decay is {average_decay}, which is not that of the engine's average")
        self._engine, self._collectives = engine, collectives
        self._full_every, self._bits, self._average_decay = full_every, bits, average_decay
        self._collected_average = self._saved_average = 0  # steps in the average, last collected and last committed
        self._chain_fault, self._say = chain_fault, say
        self._full_at_first, self._full_so_far = full_at_first, 0
        self._touched = TouchedRows(engine.model)
        self._since_full: int | None = None  # increments; None: there is nothing that one could stand on
        self._collected: Literal["full", "increment"] | None = None
        self._base: Link | None = None  # these two on rank 0 alone
        self._parent: Link | None = None

    def collect(self) -> tuple[Sequence[LogicalTensor], dict[str, Any]]:
        """What the next checkpoint holds, and facts for its manifest; collective, between steps."""
        self._touched.give_back()  # collected to take memory for it, for example
        state, rows = engine_tensors(self._engine), _as_in_state(self._touched.take())
        self._collected, self._collected_average = "full", self._average_steps()
        if self._since_full is None or self._since_full + 1 >= self._full_every:
            return state, {}
        if self._full_so_far < self._full_at_first:
            return state, {}
        if not 0 <= self._collected_average - self._saved_average <= MAX_REPLAYED_STEPS:
            return state, {}
        if fault := from_rank_0(self._collectives, self._chain_fault):
            self._say(
                f"warning: {fault}; what stands on it is lost, and everything is saved instead of another increment"
            )
            return state, {}
        tables = tensors_by_table(state)
        touched = _touched_tensors(tables, rows, self._bits)
        others = [reduced(tensor) for tensor in state] if self._bits == 8 else list(state)
        shards = self._agreed_shards(
            tables, touched, list(rows), finite=self._bits == 32 or _all_finite(touched + others)
        )
        if shards is None:
            return state, {}
        self._collected = "increment"
        partial = {tensor.name for table in shards for tensor in tables[table].values()}
        tensors = [tensor for tensor in others if tensor.name not in partial] + touched
        links = {
            name: None if link is None else link.model_dump()
            for name, link in (("base", self._base), ("parent", self._parent))
        }
        fact: dict[str, Any] = {**links, "bits": self._bits, "shards": shards}
        if self._average_decay > 0:
            steps = {"first": self._saved_average, "last": self._collected_average}
            fact["average"] = {"decay": self._average_decay, **steps}
        return tensors, {FACT: fact}

    def settled(self, report: SaveReport | None) -> None:
        """What was collected last was committed, or (None) is in no checkpoint; the same on every rank."""
        collected, self._collected = self._collected, None
        if collected is None:
            return
        if report is None:
            self._touched.give_back()
            return
        self._touched.confirm()
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
        self._touched.forget()
        self._since_full = self._collected = self._base = self._parent = None

    def _average_steps(self) -> int:
        average = self._engine.average
        return int(average.steps) if isinstance(average, ExponentialAverage) else 0

    def _agreed_shards(
        self,
        tables: Mapping[str, Mapping[str, LogicalTensor]],
        touched: Sequence[LogicalTensor],
        mine: Sequence[Shard],
        *,
        finite: bool,
    ) -> dict[str, list[tuple[int, ...]]] | None:
        """All ranks' shards by table; None where an increment is not worth it or, on a rank, not ``finite``."""
        whole_bytes = sum(
            _bytes(block.tensor)
            for table in {shard.table for shard in mine}
            for tensor in tables[table].values()
            for block in tensor.blocks
            if block.primary
        )
        touched_bytes = sum(_bytes(block.tensor) for tensor in touched for block in tensor.blocks)
        by_rank = self._collectives.all_gather_object((whole_bytes, touched_bytes, finite, [tuple(s) for s in mine]))
        if not all(finite for _, _, finite, _ in by_rank):
            return None
        if sum(part for _, part, _, _ in by_rank) > LARGEST_PART * sum(whole for whole, _, _, _ in by_rank):
            return None
        shards: dict[str, list[tuple[int, ...]]] = {}
        for table, *place in sorted(shard for _, _, _, held in by_rank for shard in held):
            shards.setdefault(table, []).append(tuple(place))
        return shards or None


def _as_in_state(rows: Mapping[Shard, torch.Tensor]) -> dict[Shard, torch.Tensor]:
    """The same, with the tables called as in the training state."""
    return {shard._replace(table=state_name(shard.table)): rows_N for shard, rows_N in rows.items()}


def _all_finite(tensors: Sequence[LogicalTensor]) -> bool:
    """Whether what is quantised of an increment's tensors can be restored."""
    for tensor in tensors:
        if tensor.name.startswith(REDUCED_PREFIX) and fault_in_reduced(tensor.blocks[0].tensor):
            return False
        codes = tensor.name.startswith(PREFIX) and tensor.name.endswith(_QUANTISED_ENDS)
        if codes and fault_in_codes(tensor.blocks[0].tensor):
            return False
    return True


def _touched_tensors(
    tables: Mapping[str, Mapping[str, LogicalTensor]], rows: Mapping[Shard, torch.Tensor], bits: Bits
) -> list[LogicalTensor]:
    """The touched rows of this rank's shards, copied out of the state."""
    found = []
    for shard, rows_N in rows.items():
        stored = TouchedShard(*shard)
        found.append(_held_here(f"{stored.name}.rows", rows_N.to(stored.row_dtype)))
        for name, tensor in tables[shard.table].items():
            if len(tensor.shape) == 2 or shard.first_column == 0:  # row-wise state is saved where columns begin
                block = _block_of(tensor, shard)
                values = block.index_select(0, rows_N.to(block.device))
                quantised = bits == 8 and name in QUANTISED
                found.append(_held_here(f"{stored.name}.{name}", encode_rows(values) if quantised else values))
    return found


def _block_of(tensor: LogicalTensor, shard: Shard) -> torch.Tensor:
    place = (shard.first_row, shard.first_column)[: len(tensor.shape)]
    return next(block.tensor.detach() for block in tensor.blocks if tuple(block.offsets) == place)


def _held_here(name: str, tensor: torch.Tensor) -> LogicalTensor:
    """A tensor that this rank alone has, all of it."""
    block = Block((0,) * tensor.dim(), tensor)
    return LogicalTensor(name, tuple(tensor.shape), tensor.dtype, (block,))


def _bytes(tensor: torch.Tensor) -> int:
    return tensor.numel() * tensor.element_size()
