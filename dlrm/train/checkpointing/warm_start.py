"""A new training that begins with weights of another one, although vocabularies, tables or parts of the model differ.

A table's row is taken from the row that stands for the same raw value; rows, tables and (where that is allowed) dense
parameters without a match keep the initial weights that they would have anyway, which follow from seed, name and row. So
the result is the same on any number of ranks and under every sharding type.

A rank reads the rows that its shards need, in blocks of bounded size, whatever their order in the checkpoint.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from rich.table import Table
from rich.text import Text

from dlrm.checkpoint.patience import Patience, patient
from dlrm.checkpoint.reader import Reader, open_reader
from dlrm.checkpoint.remote import located
from dlrm.checkpoint.resume import require_sound
from dlrm.checkpoint.soundness import fault_in_state
from dlrm.checkpoint.stored import open_checkpoint
from dlrm.checkpoint.tensors import GlobalTensor, Shard, names_by_table, tensors_by_table
from dlrm.config import Config
from dlrm.config.checkpoint import NO_CHECKPOINT
from dlrm.config.optim import SparseAdam
from dlrm.data.raw.raw_rows import Int64s
from dlrm.data.raw.row_map import NO_ROW
from dlrm.data.source import Source
from dlrm.distributed.collectives import from_rank_0, together
from dlrm.distributed.world import World
from dlrm.errors import CheckpointMismatchError, ConfigError
from dlrm.format import counted, printable
from dlrm.table_names import table_name
from dlrm.train.checkpointing.resume import Start, find_checkpoint
from dlrm.train.checkpointing.row_matching import RowMatching
from dlrm.train.checkpointing.state import AVERAGE_PREFIX, after_load, engine_tensors
from dlrm.train.engine import Engine

_BLOCK_BYTES = 256 << 20  # of rows that are read together; a chunk of a checkpoint is a quarter of it at most
_HINT = "mend the difference, or --warm_start.strict false to begin there as a new model does"


@dataclass
class _Report:
    """What became of each part, for the table at the start.

    Attributes:
        rows: part, carried over, new, left behind, how rows were matched.
    """

    rows: list[tuple[str, str, str, str, str]] = field(default_factory=list)

    def table(self, title: str) -> Table:
        """For the terminal."""
        table = Table(title=title, title_justify="left")
        for name in ("part", "carried over", "new", "left behind", "matched by"):
            table.add_column(name, justify="left" if name in ("part", "matched by") else "right")
        for row in self.rows:
            table.add_row(*(Text(printable(cell)) for cell in row))
        return table


def start_warm(config: Config, engine: Engine, train: Source, world: World, patience: Patience) -> Start:
    """Write what fits of another training's checkpoint into an engine; collective. Nothing, if none is asked for.

    Args:
        config: says from what.
        engine: as built.
        train: the training samples.
        world: the ranks that load together.
        patience: with the storage of the checkpoint.

    Raises:
        CheckpointMismatchError: something here does not fit; nothing was loaded.
        DataError: vocabularies that are to be compared are missing or damaged.
        ConfigError: Adam's state of tables is asked for.
        CheckpointError: there is no checkpoint, or it is not to be trusted.
    """
    asked = config.warm_start
    if asked.checkpoint == NO_CHECKPOINT:
        return Start()
    if asked.optimizer and isinstance(config.optim.sparse, SparseAdam):
        message = (
            "is true, and Adam of tables would take moments of many steps for those of its first one; leave it out"
        )
        raise ConfigError.at("warm_start.optimizer", message)
    storage, path = located(asked.checkpoint)
    storage = patient(storage, patience)
    chosen, skipped = from_rank_0(world.collectives, lambda: find_checkpoint(path, storage))
    tensors = engine_tensors(engine)

    def prepare() -> _Transfer:
        reader = open_reader(open_checkpoint(chosen, storage))
        transfer = _Transfer(config, tensors, reader, RowMatching(config, engine.lookups, reader, train))
        if transfer.faults and asked.strict:
            raise CheckpointMismatchError(chosen, transfer.faults, hint=_HINT)
        return transfer

    transfer = together(world.collectives, prepare)
    report = together(world.collectives, transfer.fill)
    require_sound(transfer.reader.checkpoint, tensors, world.collectives, fault_in_state)
    after_load(engine)
    checkpoint = transfer.reader.checkpoint
    lines = (
        *(f"skipped {one.path}: {one.why}" for one in skipped),
        f"warm start from {checkpoint.path} (step {checkpoint.step:,}): training begins at the first sample",
        *(f"begins as a new model does: {fault}" for fault in transfer.faults),
        *transfer.removed,
        *_lines_of_sums(config),
    )
    return Start(lines=lines, table=report.table("Carried over"))


class _Transfer:
    """What of a checkpoint goes where.

    Args:
        config: of the new training; tensors: its state.
        reader: of the checkpoint; matching: says which of its rows are whose.

    Attributes:
        faults: what here the checkpoint does not fit, in words; removed: what it has that is not here, a line a kind.
    """

    def __init__(self, config: Config, tensors: Sequence[GlobalTensor], reader: Reader, matching: RowMatching) -> None:
        self._config, self.reader, self._matching = config, reader, matching
        self._tables = tensors_by_table([tensor for tensor in tensors if not tensor.name.startswith(AVERAGE_PREFIX)])
        self._dense = [tensor for tensor in tensors if _is_dense_weight(tensor.name) and tensor.dtype.is_floating_point]
        self._states = [tensor for tensor in tensors if _is_dense_state(tensor.name)]
        self._averaged = config.warm_start.average
        self._fault_of_table = {
            table: fault for table in self._tables if table in self._stored if (fault := self._fault(table))
        }
        self._fault_of_dense = {tensor.name: fault for tensor in self._dense if (fault := self._difference(tensor))}
        self.faults = [*self._fault_of_table.values(), *self._fault_of_dense.values()]
        self.removed = tuple(self._removed())

    @property
    def _stored(self) -> dict[str, list[str]]:
        return names_by_table(self.reader.tensors)

    def _fault(self, table: str) -> str:
        """Why no row of a table can be taken over; empty if they can."""
        weight, name = self._tables[table]["weight"], table_name(table)
        width = self.reader.tensors[f"tables.{table}.weight"].shape[1]
        if width != weight.shape[1]:
            return f"table {name} has rows of {width} numbers in the checkpoint, {weight.shape[1]} here"
        if fault := self._matching.fault(name, weight.shape[0]):
            return fault
        if self._config.warm_start.optimizer:
            for of_table, tensor in self._tables[table].items():
                stored = self.reader.tensors.get(f"tables.{table}.{of_table}")
                if stored is not None and stored.shape[1:] != tensor.shape[1:]:
                    shapes = f"{list(stored.shape)} in the checkpoint, {list(tensor.shape)} here"
                    return f"table {name}: {of_table} has shape {shapes} (warm_start.optimizer)"
        return ""

    def _difference(self, tensor: GlobalTensor) -> str:
        stored = self.reader.tensors.get(tensor.name)
        if stored is None:
            return f"{tensor.name} is not in the checkpoint"
        if stored.shape != tensor.shape or stored.torch_dtype != tensor.dtype:
            return f"{tensor.name} has shape {list(stored.shape)} in the checkpoint, {list(tensor.shape)} here"
        return ""

    def _removed(self) -> Iterator[str]:
        here = {tensor.name for tensor in self._dense}
        tables = sorted(table_name(table) for table in self._stored if table not in self._tables)
        floating = (name for name, record in self.reader.tensors.items() if record.torch_dtype.is_floating_point)
        dense = [name for name in floating if _is_dense_weight(name) and name not in here]
        for names, noun in ((tables, "table"), (dense, "dense parameter")):
            if names:
                yield f"left behind: {counted(len(names), noun)} that are not here: {', '.join(names)}"

    def fill(self) -> _Report:
        """Write all of it into this rank's shards.

        Raises:
            CheckpointError: something is damaged, or cannot be read.
        """
        report = _Report()
        for table, tensors in self._tables.items():
            report.rows.append(self._fill_table(table, tensors))
        fitting = [tensor for tensor in self._dense if tensor.name not in self._fault_of_dense]
        self.reader.prepare([replace(tensor, name=self._source(tensor.name)) for tensor in fitting])()
        names = {tensor.name for tensor in fitting}
        if self._config.warm_start.optimizer:
            states = [state for state in self._states if state.name.rpartition(".optimizer.")[0] in names]
            self.reader.prepare([state for state in states if not self._difference(state)])()
        by_group: dict[str, list[GlobalTensor]] = {}
        for tensor in self._dense:
            by_group.setdefault(tensor.name.partition(".")[0], []).append(tensor)
        for group, members in by_group.items():
            carried = sum(math.prod(tensor.shape) for tensor in members if tensor.name in names)
            new = sum(math.prod(tensor.shape) for tensor in members if tensor.name not in names)
            report.rows.append((group, f"{carried:,} weights", f"{new:,}", "", "name and shape"))
        return report

    def _fill_table(self, table: str, tensors: Mapping[str, GlobalTensor]) -> tuple[str, str, str, str, str]:
        name, rows = table_name(table), tensors["weight"].shape[0]
        if table not in self._stored or table in self._fault_of_table:
            return name, "0 rows", f"{rows:,}", "", ""
        source_rows = self.reader.tensors[f"tables.{table}.weight"].shape[0]
        row_R, how = self._matching.rows(name, rows)
        for of_table, tensor in tensors.items():
            stored = self._source(f"tables.{table}.{of_table}")
            wanted = of_table == "weight" or (self._config.warm_start.optimizer and stored in self.reader.tensors)
            if wanted:
                _fill_rows(self.reader, stored, tensor, row_R)
        taken = row_R[row_R != NO_ROW]
        left = source_rows - len(np.unique(taken))
        return name, f"{len(taken):,} rows", f"{rows - len(taken):,}", f"{left:,}", how

    def _source(self, name: str) -> str:
        averaged = f"{AVERAGE_PREFIX}{name}"
        return averaged if self._averaged and averaged in self.reader.tensors else name


def _fill_rows(reader: Reader, name: str, target: GlobalTensor, row_R: Int64s) -> None:
    """Fill the rows of a table's tensor that a checkpoint has.

    Args:
        reader: of the checkpoint.
        name: of the tensor there, with the same columns, if any.
        target: the tensor here.
        row_R: of each of its rows the one there, or :data:`NO_ROW`.
    """
    record = reader.tensors[name]
    for shard in target.shards:
        first, (count, *columns) = shard.offsets[0], shard.tensor.shape
        wanted_R = row_R[first : first + count]
        (here_K,) = np.nonzero(wanted_R != NO_ROW)
        here_K = here_K[np.argsort(wanted_R[here_K], kind="stable")]
        there_K = wanted_R[here_K]
        block = max(1, _BLOCK_BYTES // (shard.tensor.element_size() * math.prod(columns)))
        at = 0
        while at < len(there_K):
            start = int(there_K[at])
            end = int(np.searchsorted(there_K, start + block))
            values = torch.empty(int(there_K[end - 1]) + 1 - start, *columns, dtype=target.dtype)
            stored = Shard((start, *shard.offsets[1:]), values)
            needed = [GlobalTensor(name, record.shape, target.dtype, (stored,))]
            if name.startswith(
                AVERAGE_PREFIX
            ):  # of rows that a delta does not hold it is made again from their weights
                weights = replace(stored, tensor=torch.empty_like(values))
                needed.append(replace(needed[0], name=name.removeprefix(AVERAGE_PREFIX), shards=(weights,)))
            reader.prepare(needed)()
            places = torch.from_numpy(here_K[at:end]).to(shard.tensor.device)
            taken = values[torch.from_numpy(there_K[at:end] - start)].to(shard.tensor.device)
            shard.tensor.detach().index_copy_(0, places, taken)
            at = end


def _lines_of_sums(config: Config) -> list[str]:
    """What is to be said of sums that Adagrad begins with where those of another training are carried over."""
    if not config.warm_start.optimizer:
        return []
    return [
        f"optim.{name}.initial_accumulator {start:g} is for what begins anew: what was carried over keeps its sums"
        for name, one in (("dense", config.optim.dense), ("sparse", config.optim.sparse))
        if (start := getattr(one, "initial_accumulator", 0.0))
    ]


def _is_dense_weight(name: str) -> bool:
    return not name.startswith(("tables.", AVERAGE_PREFIX)) and ".optimizer." not in name


def _is_dense_state(name: str) -> bool:
    return not name.startswith(("tables.", AVERAGE_PREFIX)) and ".optimizer." in name
