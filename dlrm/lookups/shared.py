"""Which table a feature has: its own, or one that it shares with others."""

from __future__ import annotations

from collections.abc import Iterator

from dlrm.config.model import GrowingEmbedding, ModelConfig
from dlrm.errors import ConfigProblem
from dlrm.format import did_you_mean
from dlrm.lookups.unpooled import candidates, sharing_candidates
from dlrm.schema import Schema


def table_of_features(config: ModelConfig, schema: Schema) -> tuple[dict[str, str], dict[str, int]]:
    """The table of each feature, and how many ids each table has: of features that share one, the most that any has."""
    shared = {feature: table for table, features in config.shared_tables.items() for feature in features}
    shared |= sharing_candidates(config, schema)
    table_of = {feature.name: shared.get(feature.name, feature.name) for feature in schema.sparse}
    ids: dict[str, int] = {}
    for feature in schema.sparse:
        table = table_of[feature.name]
        ids[table] = max(feature.rows, ids.get(table, 0))
    return table_of, ids


def growing_tables(config: ModelConfig, schema: Schema) -> dict[str, GrowingEmbedding]:
    """The options of the tables that grow, by name, in the order of the data's features (not of what is looked up).

    A feature has those of its table, which may be another's, and not what the rest has.
    """
    table_of, _ = table_of_features(config, schema)
    kinds = ((table, config.embedding_of(table)) for table in table_of.values())
    return {table: kind for table, kind in kinds if isinstance(kind, GrowingEmbedding)}


def problems_of_tables(config: ModelConfig, schema: Schema) -> Iterator[ConfigProblem]:
    """What is said of tables or features that there are none of, or said twice."""
    features = [feature.name for feature in schema.sparse]
    of_candidate = sharing_candidates(config, schema)
    sharing: dict[str, str] = {}
    for table, shared in config.shared_tables.items():
        key = f"model.shared_tables.{table}"
        for feature in shared:
            if feature in of_candidate or feature in candidates(config, schema):
                message = (
                    f"{feature} and {of_candidate.get(feature, 'its histories')} share a table already, whose rows are "
                    "looked up one by one (docs/sequences.md); leave it out"
                )
                yield ConfigProblem(key, "", message)
            if feature not in features:
                yield ConfigProblem(key, "", f"the data has no sparse feature {feature}; {_hint(feature, features)}")
            elif feature in sharing:
                yield ConfigProblem(key, "", f"{feature} has table {sharing[feature]} already; a feature has one table")
            sharing[feature] = table
        if isinstance(config.embedding_of(table), GrowingEmbedding):
            message = (
                "is shared and would grow, and ids of several features have no rows in common yet; choose one of both"
            )
            yield ConfigProblem(key, "", message)
        if table in features and table not in shared:
            yield ConfigProblem(key, "", "is a feature with a table of its own; call the shared table otherwise")
    known = [*features, *config.shared_tables]
    sharing |= of_candidate
    for name, own in config.tables.items():
        key = f"model.tables.{name}"
        if name not in known:
            yield ConfigProblem(key, "", f"the data has no such table; {_hint(name, known)}")
        elif (table := sharing.get(name, name)) != name and (own.embedding_dim or own.embedding):
            message = f"its table is {table}, which it shares: give width and kind under model.tables.{table}"
            yield ConfigProblem(key, "", message)
        elif name not in features and own.pooling:
            message = (
                "is how a feature's ids are pooled, and this is a table of several; give it under the features' names"
            )
            yield ConfigProblem(f"{key}.pooling", "", message)


def _hint(name: str, known: list[str]) -> str:
    return did_you_mean(name, known, cutoff=0.5) or f"there are {len(known)}: {_shortened(known)}"


def _shortened(names: list[str], shown: int = 4) -> str:
    return ", ".join(names) if len(names) <= shown else f"{', '.join(names[: shown - 1])}, ..., {names[-1]}"
