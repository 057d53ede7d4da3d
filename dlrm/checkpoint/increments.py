"""Checkpoints that hold only the table rows touched since another one, and the chains they make.

An *increment* is a checkpoint like any other, with the same format and guarantees, but of each table that fused kernels
train it holds, for each *shard* (a rectangle of the table that begins at row r and column c, as it was cut when it was
saved), only touched rows:

===========================================  =========================================================================
name                                         what it is
===========================================  =========================================================================
``touched.<table>.<r>_<c>.rows``             int32 or int64 (n,): which rows, counted from r, strictly increasing
``touched.<table>.<r>_<c>.weight``           (n, columns): their weights; with 8 bits uint8 (n, columns + 8),
                                             :mod:`dlrm.checkpoint.row_codes`
``touched.<table>.<r>_<c>.average``          the same of their average, where there is one
``touched.<table>.<r>_<c>.optimizer.<s>``    (n, columns) or (n,): their state; row-wise state only where c is 0
===========================================  =========================================================================

All other tensors are in it whole, under their own names, or with 8 bits some as ``reduced.<name>``
(:mod:`dlrm.checkpoint.reduced`). Its fact ``increment`` names its *parent*, the checkpoint since
which rows are counted, and its *base*, the full checkpoint at which the chain of parents ends. Parents lie beside it and
are told by step and checksum of their manifest, so that nothing but the very checkpoint is taken for one. What an
increment says is what came after its parent: base, then every increment in order, make the state.

The average of a row moves in steps that do not touch the row, towards weights that stand still. These moves are not saved
but made again when an increment is loaded (:mod:`dlrm.checkpoint.replay`): it says which steps of the average they were.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Annotated, Any, Literal, NamedTuple

import torch
from pydantic import Field, ValidationError

from dlrm.checkpoint.manifest import DTYPE_NAMES, MANIFEST_NAME, RESTORE, Checksum, Count, Record, TensorRecord
from dlrm.checkpoint.names import checkpoint_name
from dlrm.checkpoint.rectangles import Rectangle, fault_in_cover
from dlrm.checkpoint.reduced import PREFIX as REDUCED_PREFIX
from dlrm.checkpoint.reduced import reduced_record
from dlrm.checkpoint.row_codes import PARAMETER_BYTES
from dlrm.checkpoint.storage import UnreachableError
from dlrm.checkpoint.stored import Checkpoint, open_checkpoint
from dlrm.errors import CheckpointError

FACT = "increment"
PREFIX = "touched."
QUANTISED = ("weight", "average")
"""What of a row may be in 8 bits."""
MAX_REPLAYED_STEPS = 10_000
"""Of an average, between an increment and its parent: as many passes over the tables are made when it is loaded."""
Bits = Literal[8, 32]


class Link(Record):
    """A checkpoint of the same folder: its step and the checksum of its manifest."""

    step: Count
    manifest_checksum: Checksum


class AverageRecord(Record):
    """The steps of the weights' average between an increment and its parent.

    Attributes:
        decay: of the average; first, last: steps that were in it then and are now.
    """

    decay: Annotated[float, Field(ge=0, lt=1, allow_inf_nan=False)]
    first: Count
    last: Count


class IncrementRecord(Record):
    """What an increment says of itself.

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


class TouchedShard(NamedTuple):
    """A shard of which an increment has the touched rows."""

    table: str
    first_row: int
    first_column: int
    rows: int
    columns: int

    @property
    def name(self) -> str:
        """What the names of its tensors begin with."""
        return f"{PREFIX}{self.table}.{self.first_row}_{self.first_column}"

    @property
    def rectangle(self) -> Rectangle:
        """Its place in the table."""
        return Rectangle((self.first_row, self.first_column), (self.rows, self.columns))

    @property
    def row_dtype(self) -> torch.dtype:
        """Of the numbers of its rows."""
        return torch.int32 if self.rows < 2**31 else torch.int64


def weight_name(table: str) -> str:
    """A table's weight in the state."""
    return f"tables.{table}.weight"


def names_by_table(names: Iterable[str]) -> dict[str, list[str]]:
    """What there is of each table: ``weight``, ``average``, ``optimizer.<state>``; see :func:`full_name`.

    Tensors of no table are left out.
    """
    found: dict[str, list[str]] = defaultdict(list)
    for name in names:
        if name.startswith(("tables.", "average.tables.")) and name.endswith(".weight"):
            table = name.removeprefix("average.")[len("tables.") : -len(".weight")]
            found[table].append("weight" if name.startswith("tables.") else "average")
        elif name.startswith("tables."):
            table, separator, state = name.removeprefix("tables.").rpartition(".optimizer.")
            if separator:
                found[table].append(f"optimizer.{state}")
    return found


def full_name(table: str, name: str) -> str:
    """The tensor of the state that :func:`names_by_table` calls so."""
    return f"average.{weight_name(table)}" if name == "average" else f"tables.{table}.{name}"


@dataclass(frozen=True)
class Increment:
    """An opened increment."""

    checkpoint: Checkpoint
    record: IncrementRecord

    @cached_property
    def shards(self) -> tuple[TouchedShard, ...]:
        """All shards of all tables that it has only touched rows of."""
        return tuple(TouchedShard(table, *place) for table, places in self.record.shards.items() for place in places)

    @cached_property
    def whole(self) -> frozenset[str]:
        """Names of the tensors that it has whole and exact."""
        return frozenset(name for name in self.checkpoint.tensors if not name.startswith((PREFIX, REDUCED_PREFIX)))

    @cached_property
    def reduced(self) -> frozenset[str]:
        """Names in the state of the tensors that it has whole in fewer bytes."""
        names = self.checkpoint.tensors
        return frozenset(name.removeprefix(REDUCED_PREFIX) for name in names if name.startswith(REDUCED_PREFIX))

    def touched(self, shard: TouchedShard) -> int:
        """Number of rows that it has of a shard."""
        return self.checkpoint.tensors[f"{shard.name}.rows"].shape[0]


@dataclass(frozen=True)
class Chain:
    """What has to be read for the state of a checkpoint: a full one and all increments up to it, the oldest first."""

    base: Checkpoint
    increments: tuple[Increment, ...]

    @property
    def members(self) -> tuple[Checkpoint, ...]:
        """All its checkpoints, the oldest first."""
        return (self.base, *(increment.checkpoint for increment in self.increments))

    @property
    def tip(self) -> Checkpoint:
        """The checkpoint whose state it makes."""
        return self.members[-1]

    @property
    def tensors(self) -> dict[str, TensorRecord]:
        """The logical tensors of the state by name."""
        return self.base.tensors


def increment_record(checkpoint: Checkpoint) -> IncrementRecord | None:
    """What a checkpoint says of itself as an increment, None if it is a full one.

    Raises:
        CheckpointError: it says something else than an increment does.
    """
    found: Any = checkpoint.facts.get(FACT)
    if found is None:
        return None
    try:
        return IncrementRecord.model_validate(_tuples(found))
    except ValidationError as error:
        detail = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(ascii(part).strip("'")[:80] for part in (FACT, *detail["loc"]))
        problem = f"facts.{where}: {detail['msg'].replace('Input should be', 'must be')}"
        raise CheckpointError(_manifest_of(checkpoint), problem, mend=RESTORE) from None


def _tuples(value: Any) -> Any:
    """JSON with tuples for lists, which strict records take."""
    if isinstance(value, dict):
        return {key: _tuples(inner) for key, inner in value.items()}
    return tuple(map(_tuples, value)) if isinstance(value, list) else value


def open_chain(
    checkpoint: Checkpoint, *, damaged: Collection[str] = (), opened: dict[str, Checkpoint] | None = None
) -> Chain:
    """Open all that a checkpoint stands on; a chain of one for a full checkpoint.

    Args:
        checkpoint: an open one; those it stands on lie beside it.
        damaged: paths of checkpoints that are known not to be whole.
        opened: checkpoints by path that need not be opened again; those that are opened here are added.

    Raises:
        UnreachableError: the storage fails, so that nothing is known of it.
        CheckpointError: it, or one that it stands on, is known to be damaged, is not there or another one than it was, or
            contradicts the base.
    """
    increments, here, opened = [], checkpoint, {} if opened is None else opened
    while True:
        if here.path in damaged:
            raise _broken(checkpoint, f"stands on {checkpoint_name(here.step)}, which is damaged")
        record = increment_record(here)
        if record is None:
            break
        increments.append(Increment(here, record))
        if record.parent.step >= here.step or record.base.step > record.parent.step:
            problem = f"is of step {here.step} and stands on steps {record.parent.step} and {record.base.step}"
            raise CheckpointError(_manifest_of(here), f"{problem}, which are not before it", mend=RESTORE)
        here = _parent(checkpoint, here, record, opened)
    increments.reverse()
    chain = Chain(here, tuple(increments))
    for increment in chain.increments:
        if increment.record.base != Link(step=here.step, manifest_checksum=here.manifest_checksum):
            raise CheckpointError(_manifest_of(increment.checkpoint), "has another base than its parent", mend=RESTORE)
        problem = _contradiction(increment, chain.tensors)
        if problem:
            raise CheckpointError(_manifest_of(increment.checkpoint), problem, mend=RESTORE)
    return chain


def _parent(tip: Checkpoint, here: Checkpoint, record: IncrementRecord, opened: dict[str, Checkpoint]) -> Checkpoint:
    name = checkpoint_name(record.parent.step)
    path = f"{here.path.rpartition('/')[0] or '.'}/{name}"
    try:
        parent = opened[path] = opened.get(path) or open_checkpoint(path, here.storage)
    except UnreachableError:
        raise
    except CheckpointError as error:
        raise _broken(tip, f"stands on {name}, which is not whole ({error})") from error
    if parent.manifest_checksum != record.parent.manifest_checksum or parent.step != record.parent.step:
        raise _broken(tip, f"stands on another {name} than the one beside it")
    return parent


def _broken(tip: Checkpoint, problem: str) -> CheckpointError:
    return CheckpointError(tip.path, problem, mend="use an older checkpoint")


def _manifest_of(checkpoint: Checkpoint) -> str:
    return f"{checkpoint.path}/{MANIFEST_NAME}"


def _contradiction(increment: Increment, state: Mapping[str, TensorRecord]) -> str:
    """In what an increment does not fit the state of its base, in words; empty: in nothing."""
    for table, places in increment.record.shards.items():
        weight = state.get(weight_name(table))
        if weight is None or len(weight.shape) != 2:
            return f"has touched rows of {table!a}, which is no table of its base"
        if increment.record.bits == 8 and weight.dtype != "float32":
            return f"has touched rows of {table} in 8 bits, but in its base they are {weight.dtype}"
        if any(0 in place[2:] for place in places):
            return f"has a shard of {table} without rows or columns"
        problem = fault_in_cover(weight.shape, (Rectangle(place[:2], place[2:]) for place in places))
        if problem:
            return f"has shards of {table} that do not make the table: {problem}"
    of_table = names_by_table(state)
    partial = {full_name(table, name) for table in increment.record.shards for name in of_table[table]}
    average = increment.record.average
    if (average is not None) != any("average" in of_table[table] for table in increment.record.shards):
        return "and its base do not both have an average of the tables' weights"
    if average is not None and not 0 <= average.last - average.first <= MAX_REPLAYED_STEPS:
        return f"has steps {average.first} .. {average.last} of the average, not 0 .. {MAX_REPLAYED_STEPS} of them"
    found = increment.checkpoint.tensors
    for name in sorted(set(state) - partial - increment.reduced | increment.whole):
        if found.get(name) != state.get(name) or name in partial:
            return f"and its base do not hold the same {name}"
    touched = {record.name: record for record in _touched_records(increment, state, of_table)}
    expected = touched | {record.name: record for record in _reduced_records(increment, state)}
    for name in sorted(expected.keys() | (found.keys() - increment.whole)):
        if found.get(name) != expected.get(name):
            return f"should {'not hold' if name not in expected else 'hold another'} {name}"
    return ""


def _reduced_records(increment: Increment, state: Mapping[str, TensorRecord]) -> Iterator[TensorRecord]:
    """What it may have in fewer bytes, of the tensors that it has so and not exactly."""
    if increment.record.bits == 8:
        for name in increment.reduced & state.keys() - increment.whole:
            if (record := reduced_record(state[name])) is not None:
                yield record


def _touched_records(
    increment: Increment, state: Mapping[str, TensorRecord], of_table: Mapping[str, list[str]]
) -> Iterator[TensorRecord]:
    """What an increment has to hold of its shards, as many rows of each as it says."""
    for shard in increment.shards:
        stored = increment.checkpoint.tensors.get(f"{shard.name}.rows")
        count = min(stored.shape[0], shard.rows) if stored is not None and len(stored.shape) == 1 else 0
        yield TensorRecord(name=f"{shard.name}.rows", shape=(count,), dtype=DTYPE_NAMES[shard.row_dtype])
        for name in of_table[shard.table]:
            whole, here = state[full_name(shard.table, name)], f"{shard.name}.{name}"
            if name in QUANTISED and increment.record.bits == 8:
                yield TensorRecord(name=here, shape=(count, shard.columns + PARAMETER_BYTES), dtype="uint8")
            elif len(whole.shape) == 2:
                yield TensorRecord(name=here, shape=(count, shard.columns), dtype=whole.dtype)
            elif shard.first_column == 0:
                yield TensorRecord(name=here, shape=(count,), dtype=whole.dtype)
