"""Rows that change hands start anew: initial weights and optimizer state, and an average of the initial weights."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch

FillRows = Callable[[str, torch.Tensor, int, int], torch.Tensor]
"""``fill(table, rows_N, first_column, columns)`` gives the initial weights of rows, float32 (N, columns)."""


@dataclass(frozen=True)
class TablePart:
    """What a rank holds of a table.

    Attributes:
        first_row, first_column: where it begins in the table.
        weights: (rows, columns), as training uses them, and where there are any their averages.
        states: of the optimizer, (rows, columns) or (rows,).
    """

    first_row: int
    first_column: int
    weights: Sequence[torch.Tensor]
    states: Sequence[torch.Tensor]


class FreshRows:
    """Puts rows of growing tables back to where they started.

    Args:
        parts: by table what this rank holds of it; views that training changes.
        initial: gives the weights that rows start with.
        initial_state: what every number of their optimizer's state starts from.
    """

    def __init__(
        self, parts: Mapping[str, Iterable[TablePart]], initial: FillRows, *, initial_state: float = 0.0
    ) -> None:
        self._parts = {table: tuple(of_table) for table, of_table in parts.items()}
        self._initial, self._initial_state = initial, initial_state

    @torch.no_grad()
    def start_anew(self, table: str, rows_N: torch.Tensor) -> None:
        """Reset rows of a table (int64 (N,), on the CPU), as far as this rank holds them."""
        for part in self._parts[table]:
            weight = part.weights[0]
            stop = part.first_row + weight.shape[0]
            here_M = rows_N[(rows_N >= part.first_row) & (rows_N < stop)].to(weight.device)
            if not len(here_M):
                continue
            values_MC = self._initial(table, here_M, part.first_column, weight.shape[1])
            here_M = here_M - part.first_row
            for weights in part.weights:
                weights.index_copy_(0, here_M, values_MC.to(weights.dtype))
            for state in part.states:
                state.index_fill_(0, here_M, self._initial_state)
