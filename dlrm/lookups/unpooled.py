"""Tables whose rows a model looks up one by one: those of candidates, which their histories read as well.

What a table may be whose rows are not summed is narrower than what others may: torchrec's collection of such tables takes
one width, and a model takes each row for that of an id.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from dlrm.config.model import GrowingEmbedding, ModelConfig, TableOverride
from dlrm.errors import ConfigProblem
from dlrm.lookups.rule import Rule
from dlrm.schema import Schema, SparseFeature


def candidates(config: ModelConfig, schema: Schema) -> frozenset[str]:
    """The features that histories are of, and so the tables whose rows are looked up one by one; none if all are summed."""
    return frozenset(sharing_candidates(config, schema).values())


def sharing_candidates(config: ModelConfig, schema: Schema) -> dict[str, str]:
    """By name of a history the candidate whose table it reads, where the model looks histories up one by one."""
    if not config.unpooled_histories:
        return {}
    return {feature.name: feature.history_of for feature in schema.histories}


def problems_of_unpooled(
    config: ModelConfig, feature: SparseFeature, table: str, lookups: Sequence[tuple[Rule, int]]
) -> Iterator[ConfigProblem]:
    """What a table whose rows are looked up one by one cannot be.

    Args:
        config: of the model.
        feature: that reads it.
        table: its name.
        lookups: rule and width of each of the feature's lookups.
    """
    own = config.tables.get(feature.name, TableOverride())
    alone = "is looked up row by row (docs/sequences.md)"
    if own.pooling is not None:
        yield ConfigProblem(
            f"model.tables.{feature.name}.pooling", "", f"{feature.name} {alone}, not pooled: leave it out"
        )
    if feature.weights:
        message = f"gives {feature.name} weights, which {alone}: no sum is weighted by them; leave it out"
        yield ConfigProblem(f"data.id_weights.{feature.name}", "", message)
    if feature.name != table:  # the rest is said of the candidate
        return
    if own.embedding_dim not in (None, config.embedding_dim):
        message = (
            f"is {own.embedding_dim}, and {table} {alone}, which takes one width, {config.embedding_dim}: leave it out"
        )
        yield ConfigProblem(f"model.tables.{table}.embedding_dim", "", message)
    kind = config.embedding_of(table)
    an_id_a_row = len(lookups) == 1 and lookups[0][0].rows_per_id == 1
    whole = own.embedding_dim is not None or all(dim == config.embedding_dim for _, dim in lookups)
    if isinstance(kind, GrowingEmbedding) or not an_id_a_row or not whole:
        key = f"model.tables.{table}.embedding" if own.embedding else "model.embedding"
        message = (
            f"is {kind.kind}, and table {table} {alone}, of rows with an id each that are as wide as vectors: give it "
            f"another (model.tables.{table}.embedding), full, frequency_capped or hashed with one function"
        )
        yield ConfigProblem(key, "", message)
