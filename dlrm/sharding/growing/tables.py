"""The growing tables of a model: ids become rows before torchrec sees a batch.

The pipeline takes batches ahead of the one that is computed, so that the id maps are ahead of the tables by as many steps.
Each batch brings along the rows that change hands with it. They start anew in :meth:`GrowingTables.begin`, when the batch
before it has been trained and this one has looked nothing up yet; so no row is taken from a batch in flight. No id of a
step loses its row in that step, so that micro-batches do not disturb each other, either. Where the pipeline pauses, which
is where evaluations and checkpoints are, all batches that were taken have been trained, and maps and tables agree.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Protocol

import numpy as np
import torch
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from dlrm.config.model.growing import GrowingEmbedding
from dlrm.data.batch import Batch
from dlrm.distributed.collectives import Collectives
from dlrm.schema import Schema
from dlrm.sharding.growing.buckets import NO_ROW
from dlrm.sharding.growing.exchange import ask
from dlrm.sharding.growing.fresh_rows import FreshRows
from dlrm.sharding.growing.grouping import Grouped, grouped
from dlrm.sharding.growing.id_map import IdMap


class RowsOfIds(Protocol):
    """How the ids of batches become rows."""

    def admitted(self, batches: Iterator[Batch], first_step: int) -> Iterator[Batch]:
        """Batches of training, with rows in the place of ids; collective, batch for batch.

        Args:
            batches: of consecutive steps.
            first_step: number of the first one, from 1.
        """

    def looked_up(self, batches: Iterator[Batch]) -> Iterator[Batch]:
        """Batches that are only scored, with rows in the place of ids; collective, batch for batch."""

    def begin(self, batch: Batch) -> None:
        """A batch is about to be computed; call it before any table is asked."""

    def forget(self) -> None:
        """Know no id, as at the start."""

    @property
    def maps(self) -> Sequence[IdMap]:
        """Of each growing table this rank's buckets, whose state between steps belongs to that of training."""


class IdsAreRows:
    """No table grows."""

    def admitted(self, batches: Iterator[Batch], first_step: int) -> Iterator[Batch]:
        """The same batches."""
        return batches

    def looked_up(self, batches: Iterator[Batch]) -> Iterator[Batch]:
        """The same batches."""
        return batches

    def begin(self, batch: Batch) -> None:
        """No row changes hands."""

    def forget(self) -> None:
        """There is nothing to forget."""

    @property
    def maps(self) -> Sequence[IdMap]:
        """None."""
        return ()


class GrowingTables:
    """Those of a model.

    Args:
        configs: of the growing tables, by name.
        schema: with the tables' rows, as batches have it afterwards.
        collectives: of all ranks.
        fresh_rows: puts rows back to where they started.

    Attributes:
        maps: see :class:`RowsOfIds`.
    """

    def __init__(
        self,
        configs: Mapping[str, GrowingEmbedding],
        schema: Schema,
        collectives: Collectives,
        fresh_rows: FreshRows,
    ) -> None:
        self._collectives, self._fresh_rows = collectives, fresh_rows
        self._dtype = torch.int32 if schema.id_bytes == 4 else torch.int64
        features = [(number, feature.name) for number, feature in enumerate(schema.sparse) if feature.name in configs]
        self._features = [number for number, _ in features]
        rank, world_size = collectives.rank, collectives.world_size
        self.maps = [IdMap(name, configs[name], rank, world_size) for _, name in features]

    def admitted(self, batches: Iterator[Batch], first_step: int) -> Iterator[Batch]:
        """See :class:`RowsOfIds`."""
        step = first_step
        for batch in batches:
            yield self._with_rows(batch, step)
            step += batch.ends_step

    def looked_up(self, batches: Iterator[Batch]) -> Iterator[Batch]:
        """See :class:`RowsOfIds`."""
        for batch in batches:
            yield self._with_rows(batch, None)

    def begin(self, batch: Batch) -> None:
        """Rows that change hands with this batch start anew."""
        for table, rows_N in batch.fresh_rows.items():
            self._fresh_rows.start_anew(table, rows_N)

    def forget(self) -> None:
        """See :class:`RowsOfIds`."""
        for map_ in self.maps:
            map_.forget()

    def _with_rows(self, batch: Batch, step: int | None) -> Batch:
        sparse = batch.sparse
        ends_F = sparse.offset_per_key()
        places = [slice(ends_F[number], ends_F[number + 1]) for number in self._features]
        ids = sparse.values()
        asked_T = [grouped(ids[place].to(torch.int64).numpy()) for place in places]
        answers = ask(self.maps, asked_T, step, self._collectives)
        rows = ids.to(self._dtype, copy=True)
        for map_, place, asked, rows_U in zip(self.maps, places, asked_T, answers.rows_TU, strict=True):
            rows[place] = torch.from_numpy(_rows_of(map_, asked, rows_U))
        fresh = {map_.table: torch.from_numpy(rows) for map_, rows in zip(self.maps, answers.fresh_TN, strict=True)}
        return replace(
            batch,
            sparse=_with_values(sparse, rows.pin_memory() if ids.is_pinned() else rows),
            fresh_rows={table: rows_N for table, rows_N in fresh.items() if len(rows_N)},
        )


def _rows_of(map_: IdMap, asked: Grouped, rows_U: np.ndarray) -> np.ndarray:
    """Of each of the ids that were grouped, the row; one that others share, too, where it has none for itself."""
    return np.where(rows_U == NO_ROW, map_.fallback(asked.hashes_U), rows_U)[asked.place_N]


def _with_values(sparse: KeyedJaggedTensor, values: torch.Tensor) -> KeyedJaggedTensor:
    return KeyedJaggedTensor(
        keys=sparse.keys(),
        values=values,
        weights=sparse.weights_or_none(),
        lengths=sparse.lengths(),
        stride=sparse.stride(),
        length_per_key=sparse.length_per_key(),
        offset_per_key=sparse.offset_per_key(),
    )
