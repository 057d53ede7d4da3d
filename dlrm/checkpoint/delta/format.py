"""What a delta checkpoint holds.

It is a checkpoint like any other, with the same format and guarantees, but of each table that fused kernels train it holds,
for each *shard* (a slice of the table that begins at row r and column c, as it was cut when it was saved), only the
dirty rows, those that training has changed since another checkpoint:

===========================================  =========================================================================
name                                         what it is
===========================================  =========================================================================
``touched.<table>.<r>_<c>.rows``             int32 or int64 (n,): which rows, counted from r, strictly increasing
``touched.<table>.<r>_<c>.weight``           (n, columns): their weights; with 8 bits uint8 (n, columns + 8),
                                             :mod:`dlrm.checkpoint.delta.quantise`
``touched.<table>.<r>_<c>.average``          the same of their average, where there is one
``touched.<table>.<r>_<c>.optimizer.<s>``    (n, columns) or (n,): their state; row-wise state only where c is 0
===========================================  =========================================================================

All other tensors are in it whole, under their own names, or with 8 bits some as ``reduced.<name>``. Its metadata
``increment`` name its *parent*, the checkpoint since which rows are counted, and its *base*, the full checkpoint at which
the chain of parents ends. Parents lie beside it and are told by step and checksum of their manifest, so that nothing but
the very checkpoint is taken for one. What a delta says is what came after its parent: base, then every delta in order, make
the state.

The words ``increment``, ``touched`` and ``reduced`` are those of the files; elsewhere it is delta, dirty and quantised.

The average of a row moves in steps that do not change the row, towards weights that stand still. These moves are not saved
but made again when a delta is loaded (:mod:`dlrm.checkpoint.delta.replay`): it says which steps of the average they were.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Annotated, Any, Literal, NamedTuple

import torch
from pydantic import Field, ValidationError

from dlrm.checkpoint.delta.quantise import PARAMETER_BYTES, QUANTISED_PREFIX, quantised_record
from dlrm.checkpoint.manifest import DTYPE_NAMES, RESTORE, Checksum, Count, Record, TensorRecord, first_fault
from dlrm.checkpoint.slices import Slice, fault_in_cover
from dlrm.checkpoint.stored import Checkpoint
from dlrm.checkpoint.tensors import full_name, names_by_table, weight_name
from dlrm.errors import CheckpointError

KEY = "increment"
"""In the metadata of a delta checkpoint: its :class:`DeltaRecord`."""
DIRTY_PREFIX = "touched."
QUANTISED = ("weight", "average")
"""What of a row may be in 8 bits."""
MAX_REPLAYED_STEPS = 10_000
"""Of an average, between a delta and its parent: as many passes over the tables are made when it is loaded."""
Bits = Literal[8, 32]
_QUANTISED_ENDS = tuple(f".{name}" for name in QUANTISED)


class Link(Record):
    """A checkpoint of the same folder: its step and the checksum of its manifest."""

    step: Count
    manifest_checksum: Checksum


class AverageRecord(Record):
    """The steps of the weights' average between a delta and its parent.

    Attributes:
        decay: of the average; first, last: steps that were in it then and are now.
    """

    decay: Annotated[float, Field(ge=0, lt=1, allow_inf_nan=False)]
    first: Count
    last: Count


class DeltaRecord(Record):
    """What a delta says of itself.

    Attributes:
        base, parent: full checkpoint and latest checkpoint before it in its chain.
        bits: of a weight in it.
        shards: first row, first column, rows and columns of each shard, by table.
        average: of the weights, where there is one.
    """

    base: Link
    parent: Link
    bits: Bits
    shards: dict[str, Annotated[tuple[tuple[Count, Count, Count, Count], ...], Field(min_length=1)]]
    average: AverageRecord | None = None

    def metadata(self) -> dict[str, Any]:
        """What it adds to the metadata of its checkpoint."""
        return {KEY: self.model_dump(exclude_none=True)}


class DirtyShard(NamedTuple):
    """A shard of which a delta has the dirty rows."""

    table: str
    first_row: int
    first_column: int
    rows: int
    columns: int

    @property
    def name(self) -> str:
        """What the names of its tensors begin with."""
        return f"{DIRTY_PREFIX}{self.table}.{self.first_row}_{self.first_column}"

    @property
    def slice(self) -> Slice:
        """Its place in the table."""
        return Slice((self.first_row, self.first_column), (self.rows, self.columns))

    @property
    def row_dtype(self) -> torch.dtype:
        """Of the numbers of its rows."""
        return torch.int32 if self.rows < 2**31 else torch.int64


@dataclass(frozen=True)
class Delta:
    """An opened delta checkpoint."""

    checkpoint: Checkpoint
    record: DeltaRecord

    @cached_property
    def shards(self) -> tuple[DirtyShard, ...]:
        """All shards of all tables that it has only dirty rows of."""
        return tuple(DirtyShard(table, *place) for table, places in self.record.shards.items() for place in places)

    @cached_property
    def whole(self) -> frozenset[str]:
        """Names of the tensors that it has whole and exact."""
        names = self.checkpoint.tensors
        return frozenset(name for name in names if not name.startswith((DIRTY_PREFIX, QUANTISED_PREFIX)))

    @cached_property
    def quantised(self) -> frozenset[str]:
        """Names in the state of the tensors that it has whole in fewer bytes."""
        names = self.checkpoint.tensors
        return frozenset(name.removeprefix(QUANTISED_PREFIX) for name in names if name.startswith(QUANTISED_PREFIX))

    def rows_of(self, shard: DirtyShard) -> int:
        """Number of rows that it has of a shard."""
        return self.checkpoint.tensors[f"{shard.name}.rows"].shape[0]


def is_quantised(name: str) -> bool:
    """Whether a tensor of a delta with 8 bits holds rows of codes, or bfloat16, in place of other numbers."""
    return name.startswith(QUANTISED_PREFIX) or (name.startswith(DIRTY_PREFIX) and name.endswith(_QUANTISED_ENDS))


def delta_record(checkpoint: Checkpoint) -> DeltaRecord | None:
    """What a checkpoint says of itself as a delta, None if it is a full one.

    Raises:
        CheckpointError: it says something else than a delta does.
    """
    found: Any = checkpoint.metadata.get(KEY)
    if found is None:
        return None
    try:
        return DeltaRecord.model_validate(_tuples(found))
    except ValidationError as error:
        raise CheckpointError(checkpoint.manifest_path, first_fault(error, f"facts.{KEY}"), hint=RESTORE) from None


def _tuples(value: Any) -> Any:
    """JSON with tuples for lists, which strict records take."""
    if isinstance(value, dict):
        return {key: _tuples(inner) for key, inner in value.items()}
    return tuple(map(_tuples, value)) if isinstance(value, list) else value


def contradiction(delta: Delta, state: Mapping[str, TensorRecord]) -> str:
    """In what a delta does not fit the state of its base, in words; empty: in nothing."""
    of_table = names_by_table(state)
    record, found = delta.record, delta.checkpoint.tensors
    problem = _fault_in_shards(record, state) or _fault_in_average(record, of_table)
    if problem:
        return problem
    partial = {full_name(table, name) for table in record.shards for name in of_table[table]}
    for name in sorted(set(state) - partial - delta.quantised | delta.whole):
        if found.get(name) != state.get(name) or name in partial:
            return f"and its base do not hold the same {name}"
    expected = {one.name: one for one in _dirty_records(delta, state, of_table)}
    expected |= {one.name: one for one in _quantised_records(delta, state)}
    for name in sorted(expected.keys() | (found.keys() - delta.whole)):
        if found.get(name) != expected.get(name):
            return f"should {'not hold' if name not in expected else 'hold another'} {name}"
    return ""


def _fault_in_shards(record: DeltaRecord, state: Mapping[str, TensorRecord]) -> str:
    for table, places in record.shards.items():
        weight = state.get(weight_name(table))
        if weight is None or len(weight.shape) != 2:
            return f"has dirty rows of {table!a}, which is no table of its base"
        if record.bits == 8 and weight.dtype != "float32":
            return f"has dirty rows of {table} in 8 bits, but in its base they are {weight.dtype}"
        if any(0 in place[2:] for place in places):
            return f"has a shard of {table} without rows or columns"
        problem = fault_in_cover(weight.shape, (Slice(place[:2], place[2:]) for place in places))
        if problem:
            return f"has shards of {table} that do not make the table: {problem}"
    return ""


def _fault_in_average(record: DeltaRecord, of_table: Mapping[str, list[str]]) -> str:
    average = record.average
    if (average is not None) != any("average" in of_table[table] for table in record.shards):
        return "and its base do not both have an average of the tables' weights"
    if average is not None and not 0 <= average.last - average.first <= MAX_REPLAYED_STEPS:
        return f"has steps {average.first} .. {average.last} of the average, not 0 .. {MAX_REPLAYED_STEPS} of them"
    return ""


def _quantised_records(delta: Delta, state: Mapping[str, TensorRecord]) -> Iterator[TensorRecord]:
    """What it may have in fewer bytes, of the tensors that it has so and not exactly."""
    if delta.record.bits == 8:
        for name in delta.quantised & state.keys() - delta.whole:
            if (record := quantised_record(state[name])) is not None:
                yield record


def _dirty_records(
    delta: Delta, state: Mapping[str, TensorRecord], of_table: Mapping[str, list[str]]
) -> Iterator[TensorRecord]:
    """What a delta has to hold of its shards, as many rows of each as it says."""
    for shard in delta.shards:
        stored = delta.checkpoint.tensors.get(f"{shard.name}.rows")
        count = min(stored.shape[0], shard.rows) if stored is not None and len(stored.shape) == 1 else 0
        yield TensorRecord(name=f"{shard.name}.rows", shape=(count,), dtype=DTYPE_NAMES[shard.row_dtype])
        for name in of_table[shard.table]:
            whole, here = state[full_name(shard.table, name)], f"{shard.name}.{name}"
            if name in QUANTISED and delta.record.bits == 8:
                yield TensorRecord(name=here, shape=(count, shard.columns + PARAMETER_BYTES), dtype="uint8")
            elif len(whole.shape) == 2:
                yield TensorRecord(name=here, shape=(count, shard.columns), dtype=whole.dtype)
            elif shard.first_column == 0:
                yield TensorRecord(name=here, shape=(count,), dtype=whole.dtype)
