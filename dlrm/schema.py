"""What a sample consists of: the columns that the data has and the model expects.

The schema is data, not code: 13 dense and 26 sparse features are Criteo's numbers, not constants of this package.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

ONE_TASK = ("label",)
_WEIGHT_BYTES = 4
LONGEST_NAME = 4096
"""Characters of a column's name."""


def fault_in_name(name: str) -> str:
    """Why no column can be called so, in words; empty for any text that is not too long."""
    if len(name) > LONGEST_NAME:
        return f"has a name of {len(name):,} characters, {LONGEST_NAME:,} are the most"
    if any("\ud800" <= character <= "\udfff" for character in name):
        return "has a name that is no Unicode text"
    return ""


@dataclass(frozen=True)
class SparseFeature:
    """A categorical feature and the size of its embedding table.

    Attributes:
        name: column name; also the name of its table, unless ``table`` says otherwise.
        rows: number of distinct ids; valid ids are 0 .. rows - 1.
        hotness: ids per sample (1 for one-hot), at most.
        table: the name of its table, where that is another.
        weights: the column of the ids' weights, by which their embeddings are multiplied; none if empty.
        history_of: name of the feature whose earlier ids these are, in its rows (a *history*; docs/sequences.md); empty for
            other features. A model that knows no histories has a table of its own for them.
    """

    name: str
    rows: int
    hotness: int = 1
    weights: str = ""
    table: str = ""
    history_of: str = ""


@dataclass(frozen=True)
class Schema:
    """The columns of a sample, in the order in which arrays hold them.

    Attributes:
        dense: names of the numbers; sparse: features; tasks: what is predicted, T names of the columns of the labels. The
            first task decides where one number is needed: which checkpoint is the best, when the target is reached.
        sample_weight: the column of the samples' weights, by which their losses are multiplied; none if empty.
    """

    dense: tuple[str, ...]
    sparse: tuple[SparseFeature, ...]
    tasks: tuple[str, ...] = ONE_TASK
    sample_weight: str = ""

    @property
    def ids_have_weights(self) -> bool:
        """Whether those of any feature have; in batches the ids of all features have them then, 1 where none is given."""
        return any(feature.weights for feature in self.sparse)

    @property
    def by_table(self) -> dict[str, list[SparseFeature]]:
        """The features of each table, by its name; one each where no table is shared."""
        found: dict[str, list[SparseFeature]] = {}
        for feature in self.sparse:
            found.setdefault(feature.table or feature.name, []).append(feature)
        return found

    @property
    def histories(self) -> tuple[SparseFeature, ...]:
        """The features that hold earlier ids of another one."""
        return tuple(feature for feature in self.sparse if feature.history_of)

    @property
    def ids_per_sample(self) -> int:
        """Number of ids a sample holds over all sparse features."""
        return sum(feature.hotness for feature in self.sparse)

    @property
    def id_bytes(self) -> int:
        """4 where int32 holds every id and number of rows, else 8: the width of ids in batches, on every rank."""
        return 4 if all(feature.rows < 2**31 for feature in self.sparse) else 8

    def bytes_per_id(self, id_bytes: int | None = None) -> int:
        """Of an id in batches and on its way to its table, with the float32 weight that it may have.

        ``id_bytes`` are those of the id itself, where it is as wide as there.
        """
        return (id_bytes or self.id_bytes) + _WEIGHT_BYTES * self.ids_have_weights

    @classmethod
    def numbered(
        cls,
        num_dense: int,
        rows: Sequence[int],
        hotness: Sequence[int] | None = None,
        tasks: Sequence[str] = ONE_TASK,
    ) -> Schema:
        """A schema with the field's usual column names ``int_0``, ``cat_0``, ...

        Args:
            num_dense: number of dense features.
            rows: table size of each sparse feature.
            hotness: ids per sample of each sparse feature; one-hot if left out.
            tasks: names of the columns of the labels.
        """
        hot = hotness if hotness is not None else [1] * len(rows)
        return cls(
            dense=tuple(f"int_{i}" for i in range(num_dense)),
            sparse=tuple(
                SparseFeature(name=f"cat_{i}", rows=n, hotness=k)
                for i, (n, k) in enumerate(zip(rows, hot, strict=True))
            ),
            tasks=tuple(tasks),
        )
