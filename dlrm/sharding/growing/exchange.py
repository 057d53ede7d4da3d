"""Ids on the way to the ranks that have their buckets, and their rows on the way back.

All growing tables of a batch go together: four messages to each other rank where ids are admitted, three where they are
looked up, on the host, by gloo. Ids go in the order of their hashes, each once, so that what a rank gets from another are
ranges of it, one a table.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from dlrm.distributed.collectives import Collectives
from dlrm.sharding.growing.grouping import Grouped, grouped
from dlrm.sharding.growing.id_map import IdMap

_Ids = NDArray[np.int64]


class Answers:
    """What the maps of all ranks say of the ids of a batch.

    Attributes:
        rows_TU: of each table the row of each id asked for, NO_ROW where it has none for itself.
        fresh_TN: of each table all rows that have changed hands, ascending, the same on every rank.
    """

    def __init__(self, rows_TU: list[_Ids], fresh_TN: list[_Ids]) -> None:
        self.rows_TU, self.fresh_TN = rows_TU, fresh_TN


def ask(maps: Sequence[IdMap], asked_T: Sequence[Grouped], step: int | None, collectives: Collectives) -> Answers:
    """The rows of ids; collective.

    Args:
        maps: of the growing tables, this rank's buckets.
        asked_T: of each of them this rank's ids.
        step: whose ids they are; None: they are looked up, and nothing is changed.
        collectives: of the ranks that the buckets are divided among.
    """
    if collectives.world_size == 1:
        return Answers(*_answered(maps, asked_T, step))
    cuts_TW = [map_.first_of_ranks(asked.hashes_U) for map_, asked in zip(maps, asked_T, strict=True)]
    sent_WT = np.stack([np.diff(cuts_W) for cuts_W in cuts_TW], axis=1)
    got_WT = _exchange_sizes(sent_WT, collectives)
    pairs_T = [np.stack([asked.ids_U, asked.amounts_U], axis=1) for asked in asked_T]
    got = _exchange(_by_rank(pairs_T, cuts_TW), sent_WT.sum(1), got_WT.sum(1), collectives)
    # What came: for each rank, for each table, its pairs.
    pieces_WT = _pieces(got, got_WT)
    of_tables_T = [np.concatenate([pieces_T[t] for pieces_T in pieces_WT]) for t in range(len(maps))]
    merged_T = [grouped(np.ascontiguousarray(pairs[:, 0]), np.ascontiguousarray(pairs[:, 1])) for pairs in of_tables_T]
    rows_TM, fresh_T = _answered(maps, merged_T, step)
    answers_T = [rows_M[merged.place_N] for rows_M, merged in zip(rows_TM, merged_T, strict=True)]
    ends_WT = got_WT.cumsum(0)
    answers_WT = [
        [answers[end - size : end] for answers, end, size in zip(answers_T, ends_T, sizes_T, strict=True)]
        for ends_T, sizes_T in zip(ends_WT, got_WT, strict=True)
    ]
    fresh_sizes_T = np.array([len(fresh) for fresh in fresh_T])
    if step is None:
        fresh_WT = np.zeros_like(got_WT)
    else:
        fresh_WT = _exchange_sizes(np.tile(fresh_sizes_T, (collectives.world_size, 1)), collectives)
    back = _exchange(
        np.concatenate([part for answers in answers_WT for part in (*answers, *fresh_T)]),
        got_WT.sum(1) + fresh_sizes_T.sum(),
        sent_WT.sum(1) + fresh_WT.sum(1),
        collectives,
    )
    parts_WP = _pieces(back, np.concatenate([sent_WT, fresh_WT], axis=1))
    tables = len(maps)
    return Answers(
        [np.concatenate([parts[t] for parts in parts_WP]) for t in range(tables)],
        [np.sort(np.concatenate([parts[tables + t] for parts in parts_WP])) for t in range(tables)],
    )


def _answered(maps: Sequence[IdMap], asked_T: Sequence[Grouped], step: int | None) -> tuple[list[_Ids], list[_Ids]]:
    """Rows and fresh rows, by table, of ids that are all of this rank's buckets."""
    if step is None:
        rows_T = [map_.look_up(asked.ids_U) for map_, asked in zip(maps, asked_T, strict=True)]
        return rows_T, [np.empty(0, np.int64) for _ in maps]
    found = [map_.assign(asked.ids_U, asked.amounts_U, step) for map_, asked in zip(maps, asked_T, strict=True)]
    return [rows for rows, _ in found], [np.sort(fresh) for _, fresh in found]


def _by_rank(pairs_T: Sequence[_Ids], cuts_TW: Sequence[_Ids]) -> _Ids:
    """The pairs for each rank, of all tables, one rank after the other."""
    ranks = range(len(cuts_TW[0]) - 1)
    return np.concatenate(
        [pairs[cuts[r] : cuts[r + 1]] for r in ranks for pairs, cuts in zip(pairs_T, cuts_TW, strict=True)]
    )


def _pieces(values: _Ids, sizes_WT: _Ids) -> list[list[_Ids]]:
    """Values cut into one piece a rank and table, in this order."""
    pieces = np.split(values, np.cumsum(sizes_WT.ravel())[:-1])
    parts = sizes_WT.shape[1]
    return [pieces[start : start + parts] for start in range(0, len(pieces), parts)]


def _exchange_sizes(sizes_WT: _Ids, collectives: Collectives) -> _Ids:
    """What this rank is sent by each, where ``sizes_WT`` is what it sends to each."""
    one_each = np.ones(len(sizes_WT), np.int64)
    return _exchange(sizes_WT, one_each, one_each, collectives)


def _exchange(values: _Ids, sent_W: _Ids, got_W: _Ids, collectives: Collectives) -> _Ids:
    sent = torch.from_numpy(np.ascontiguousarray(values))
    return collectives.all_to_all(sent, sent_W.tolist(), got_W.tolist()).numpy()
