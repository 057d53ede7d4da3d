"""From the configuration of a model and the schema of the data to what is looked up."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from dlrm.config.model import (
    FrequencyCapped,
    FullEmbedding,
    GrowingEmbedding,
    HashedEmbedding,
    MixedDim,
    ModelConfig,
    QuotientRemainder,
    TableOverride,
)
from dlrm.errors import ConfigError, ConfigProblem
from dlrm.lookups.rule import IDS, Rule, hash_keys
from dlrm.lookups.shared import growing_tables, problems_of_tables, table_of_features
from dlrm.lookups.unpooled import candidates, problems_of_unpooled
from dlrm.schema import Schema, SparseFeature

MOST_ROWS = 2**40
"""Beyond it, sizes of tables overflow what torch counts with."""
Operation = Literal["mult", "add", "concat"]


@dataclass(frozen=True)
class Lookup:
    """Of the ids of a feature.

    Attributes:
        name: of the lookup among all; feature: its place in the data's schema; table: where rows are.
        rule: by which ids become rows.
        mean: whether the embeddings of a bag are averaged.
        weighted: whether ids bring their weights, where they have some.
    """

    name: str
    feature: int
    table: str
    rule: Rule = IDS
    mean: bool = False
    weighted: bool = True


@dataclass(frozen=True)
class Table:
    """What lookups read.

    Attributes:
        name, rows: of the table.
        dim: D, numbers of a row.
        lookups: the names of those that read it.
        pooled: whether the rows of a bag are summed; otherwise the model gets each of them (docs/sequences.md).
    """

    name: str
    rows: int
    dim: int
    lookups: tuple[str, ...]
    pooled: bool = True


@dataclass(frozen=True)
class Field:
    """How a feature's vector is made of what its lookups return.

    Attributes:
        widths: of these, in order; operation: what makes one of several.
        dim: of the vector; where it is another than the operation's there is a projection between.
    """

    widths: tuple[int, ...]
    operation: Operation
    dim: int

    @property
    def combined(self) -> int:
        """Width of what the operation makes."""
        return sum(self.widths) if self.operation == "concat" else self.widths[0]


@dataclass(frozen=True)
class Lookups:
    """All lookups of a model.

    Attributes:
        features: the schema of the data.
        lookups: in the order of the features.
        fields: of each feature whose rows are pooled, in this order.
        tables: in the order in which lookups name them first.
    """

    features: Schema
    lookups: tuple[Lookup, ...]
    fields: tuple[Field, ...]
    tables: tuple[Table, ...]

    @property
    def schema(self) -> Schema:
        """The lookups as features, whose ids are rows."""
        rows = {table.name: table.rows for table in self.tables}
        sparse = (
            replace(
                self.features.sparse[lookup.feature],
                name=lookup.name,
                rows=rows[lookup.table],
                hotness=self.features.sparse[lookup.feature].hotness * lookup.rule.rows_per_id,
                table=lookup.table,
            )
            for lookup in self.lookups
        )
        return replace(self.features, sparse=tuple(sparse))

    @property
    def are_ids(self) -> bool:
        """Whether each feature has one lookup, of its name, whose rows are the ids."""
        names = tuple(feature.name for feature in self.features.sparse)
        return names == tuple(lookup.name for lookup in self.lookups) and all(at.rule == IDS for at in self.lookups)

    @property
    def widths(self) -> dict[str, int]:
        """D of each table, by name."""
        return {table.name: table.dim for table in self.tables}

    @property
    def unpooled_tables(self) -> frozenset[str]:
        """The names of tables whose rows the model gets one by one."""
        return frozenset(table.name for table in self.tables if not table.pooled)

    @property
    def pooled(self) -> tuple[Lookup, ...]:
        """The lookups whose rows are summed."""
        unpooled = self.unpooled_tables
        return tuple(lookup for lookup in self.lookups if lookup.table not in unpooled)

    @property
    def unpooled(self) -> tuple[Lookup, ...]:
        """The lookups whose rows the model gets one by one: candidates and their histories."""
        unpooled = self.unpooled_tables
        return tuple(lookup for lookup in self.lookups if lookup.table in unpooled)


def _too_long(table: str, rows: int) -> ConfigProblem:
    message = (
        f"may have {rows:,} ids, and a table has {MOST_ROWS:,} rows at most: let it grow "
        f"(model.tables.{table}.embedding: {{kind: growing, rows: ...}}), or hash its ids (kind: hashed)"
    )
    return ConfigProblem(f"data column {table}", "", message)


def with_table_rows(config: ModelConfig, schema: Schema) -> Schema:
    """The schema in which ids of growing tables are rows of these: what is looked up of samples."""
    table_of, _ = table_of_features(config, schema)
    growing = growing_tables(config, schema)
    sparse = (
        replace(feature, rows=growing[table].rows) if (table := table_of[feature.name]) in growing else feature
        for feature in schema.sparse
    )
    return replace(schema, sparse=tuple(sparse))


def lookups_of(config: ModelConfig, schema: Schema) -> Lookups:
    """What a model looks up of samples with this schema.

    Raises:
        ConfigError: what of the configuration does not fit the schema, all at once.
    """
    problems = list(problems_of_tables(config, schema))
    table_of, rows_of = table_of_features(config, schema)
    unpooled = candidates(config, schema)
    if not schema.sparse:
        problems.append(ConfigProblem("data", "", "has no sparse feature: this model needs at least one table"))
    elif set(table_of.values()) <= unpooled:
        message = (
            f"has candidates and histories alone, and {config.kind} needs one more sparse feature: name another column"
        )
        problems.append(ConfigProblem("data", "", message))
    if problems:
        raise ConfigError(problems)
    smallest = min(rows_of.values())
    found = []
    for place, feature in enumerate(schema.sparse):
        table = table_of[feature.name]
        made = _of_feature(config, place, feature, table, rows=rows_of[table], smallest=smallest)
        problems += made.problems
        if table in unpooled:
            problems += problems_of_unpooled(
                config, feature, table, [(lookup.rule, dim) for lookup, _, dim in made.lookups]
            )
        found.append(made)
    lookups = tuple(lookup for made in found for lookup, _, _ in made.lookups)
    problems += _same_names(lookups, [made.base for made in found for _ in made.lookups])
    if problems:
        raise ConfigError(problems)
    sizes = {lookup.table: (rows, dim) for made in found for lookup, rows, dim in made.lookups}
    if too_long := [_too_long(table, rows) for table, (rows, _) in sizes.items() if rows > MOST_ROWS]:
        raise ConfigError(too_long)
    tables = tuple(
        Table(name, rows, dim, tuple(lookup.name for lookup in lookups if lookup.table == name), name not in unpooled)
        for name, (rows, dim) in sizes.items()
    )
    fields = tuple(made.field for made in found if made.base not in unpooled)
    return Lookups(schema, lookups, fields, tables)


@dataclass(frozen=True)
class _OfFeature:
    """What is made of a feature with table ``base``: lookups with rows and width of their tables."""

    base: str
    lookups: list[tuple[Lookup, int, int]]
    field: Field
    problems: list[ConfigProblem]


def _of_feature(
    config: ModelConfig, place: int, feature: SparseFeature, table: str, *, rows: int, smallest: int
) -> _OfFeature:
    own = config.tables.get(table, TableOverride())
    dim = own.embedding_dim or config.embedding_dim
    kind = own.embedding or config.embedding
    key = f"model.tables.{table}.embedding" if own.embedding else "model.embedding"
    pooling = config.tables.get(feature.name, TableOverride()).pooling or config.pooling
    lookup = Lookup(feature.name, place, table, mean=pooling == "mean")
    width = dim
    problems: list[ConfigProblem] = []
    match kind:
        case FullEmbedding() | GrowingEmbedding():  # ids that grow are rows before they are looked up
            pass
        case HashedEmbedding():
            size = kind.rows or -(-rows // (kind.ids_per_row or 1))
            if size < rows:
                rule = Rule("remainder", size)
                if kind.hash == "mixed":
                    rule = Rule("hash", size, hash_keys(table, kind.functions))
                lookup, rows = replace(lookup, rule=rule), size
        case FrequencyCapped():
            if kind.rows + kind.tail_rows < rows:
                rule = Rule("hash", kind.tail_rows, hash_keys(table, 1), first=kind.rows)
                lookup, rows = replace(lookup, rule=rule), kind.rows + kind.tail_rows
        case QuotientRemainder():
            size = -(-rows // kind.ids_per_row)
            quotients = -(-rows // size)
            if rows >= kind.min_rows and quotients + size < rows:
                return _two_lookups(kind, lookup, feature, dim, (quotients, size), key)
        case MixedDim():
            width, problems = _narrow(kind, dim, rows, smallest, key)
    return _OfFeature(table, [(lookup, rows, width)], Field((width,), "add", dim), problems)


def _two_lookups(
    kind: QuotientRemainder, lookup: Lookup, feature: SparseFeature, dim: int, rows: tuple[int, int], key: str
) -> _OfFeature:
    """Products are of an id's two rows and not of sums over a bag, so that there is one id a bag (arXiv:1909.02107)."""
    problems = []
    if kind.operation == "mult" and feature.hotness > 1:
        message = (
            f"is mult, and {feature.name} has up to {feature.hotness} ids a sample, whose sums would be multiplied and not "
            f"their rows; use add or concat, if need be by model.tables.{lookup.table}.embedding"
        )
        problems.append(ConfigProblem(f"{key}.operation", "", message))
    if kind.operation == "concat" and dim % 2:
        message = (
            f"is concat, of two halves, and the vectors of {feature.name} have {dim} numbers; use an even embedding_dim"
        )
        problems.append(ConfigProblem(f"{key}.operation", "", message))
    width = dim // 2 if kind.operation == "concat" else dim
    (quotients, size), table = rows, lookup.table
    parts = [("quotient", quotients, True), ("remainder", size, kind.operation != "mult")]
    found = [
        (
            replace(
                lookup,
                name=f"{lookup.name}_{part}",
                table=f"{table}_{part}",
                rule=Rule(part, size),  # type: ignore[arg-type]
                weighted=weighted,
            ),
            count,
            width,
        )
        for part, count, weighted in parts
    ]
    return _OfFeature(table, found, Field((width, width), kind.operation, dim), problems)


def _narrow(kind: MixedDim, dim: int, rows: int, smallest: int, key: str) -> tuple[int, list[ConfigProblem]]:
    """Width of the rows of a table, by the power rule (arXiv:1909.11810, algorithm 2, with the ids of a table alike)."""
    if kind.dim is not None:
        if kind.dim <= dim:
            return kind.dim, []
        message = f"is {kind.dim}, and vectors have {dim} numbers: rows are as wide or narrower"
        return dim, [ConfigProblem(f"{key}.dim", "", message)]
    width = dim * (smallest / rows) ** kind.temperature
    if kind.powers_of_two:
        return min(dim, 2 ** max(0, round(math.log2(width)))), []
    return max(1, min(dim, round(width))), []


def _same_names(lookups: Sequence[Lookup], base_of: Sequence[str]) -> Iterator[ConfigProblem]:
    """Names made of a table's that are those of others; ``base_of`` has that table's for each lookup."""
    named: dict[str, int] = {}
    bases: dict[str, str] = {}
    for lookup, base in zip(lookups, base_of, strict=True):
        if (
            named.setdefault(lookup.name, lookup.feature) != lookup.feature
            or bases.setdefault(lookup.table, base) != base
        ):
            message = f"would make a second table {lookup.table}, and the data have one of that name; rename the column"
            yield ConfigProblem("model.embedding", "", message)
