"""Which columns a raw row has."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Layout:
    """The columns of a row: ``label``, ``int_0`` .., ``cat_0`` ..

    Attributes:
        num_dense: integer columns; num_sparse: category columns.
        id_rows: where categories are decimal ids instead of hexadecimal values: the table size of each column.
        options: what the dotted keys start with under which messages name the options.
    """

    num_dense: int
    num_sparse: int
    id_rows: tuple[int, ...] | None = None
    options: str = "data."

    @property
    def dense_names(self) -> tuple[str, ...]:
        """Names of the integer columns."""
        return tuple(f"int_{i}" for i in range(self.num_dense))

    @property
    def sparse_names(self) -> tuple[str, ...]:
        """Names of the category columns."""
        return tuple(f"cat_{i}" for i in range(self.num_sparse))

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of all columns, in file order."""
        return ("label", *self.dense_names, *self.sparse_names)
