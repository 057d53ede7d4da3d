"""Which columns a raw row has."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Layout:
    """The columns of a row: ``label`` (unless the rows have none), ``int_0`` .., ``cat_0`` ..

    Attributes:
        num_dense: integer columns; num_sparse: category columns.
        id_rows: where categories are decimal ids instead of hexadecimal values: the table size of each column.
        options: what the dotted keys start with under which messages name the options; None where a model's columns are
            what counts, and no option does.
        labelled: whether rows begin with a label (those of Kaggle's test.txt do not).
    """

    num_dense: int
    num_sparse: int
    id_rows: tuple[int, ...] | None = None
    options: str | None = "data."
    labelled: bool = True

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
        return (*(("label",) if self.labelled else ()), *self.dense_names, *self.sparse_names)

    @property
    def first_integer(self) -> int:
        """Where the integers begin; the categories do ``num_dense`` behind it."""
        return int(self.labelled)
