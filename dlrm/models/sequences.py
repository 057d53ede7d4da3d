"""The tables whose rows a model looks up one by one: those of candidates, which their histories share.

They are torchrec's EmbeddingCollection, beside the EmbeddingBagCollection of all others (:mod:`dlrm.models.tables`).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import torch
from torchrec.modules.embedding_configs import EmbeddingConfig
from torchrec.modules.embedding_modules import EmbeddingCollection

from dlrm.config.model import ModelConfig
from dlrm.errors import ConfigError
from dlrm.schema import Schema, SparseFeature
from dlrm.table_names import module_name


def pooled_features(config: ModelConfig, schema: Schema) -> tuple[SparseFeature, ...]:
    """The features whose rows the model sums, each with a table of its own."""
    unpooled = _sharing(config, schema)
    shared = {feature.name for features in unpooled.values() for feature in features}
    return tuple(feature for feature in schema.sparse if feature.name not in shared)


def table_features(config: ModelConfig, schema: Schema) -> tuple[SparseFeature, ...]:
    """A feature for each table of the model, with the table's name and as many ids as all of its features have at most."""
    tables = []
    sharing = _sharing(config, schema)
    pooled = {feature.name for feature in pooled_features(config, schema)}
    for feature in schema.sparse:
        if feature.name in sharing:
            tables.append(replace(feature, hotness=sum(one.hotness for one in sharing[feature.name])))
        elif feature.name in pooled:
            tables.append(feature)
    return tuple(tables)


def unpooled_tables(config: ModelConfig, schema: Schema) -> frozenset[str]:
    """Names of the tables whose rows the model looks up one by one."""
    return frozenset(_sharing(config, schema))


def table_of(config: ModelConfig, feature: SparseFeature) -> str:
    """The name of the table that a feature's ids are of."""
    return feature.history_of if config.unpooled_histories and feature.history_of else feature.name


def build_sequence_tables(
    config: ModelConfig, schema: Schema, *, device: str | torch.device = "meta"
) -> EmbeddingCollection | None:
    """The tables as one module: KeyedJaggedTensor -> the rows of each feature's ids, a JaggedTensor of (R, D) by name.

    None where the model sums all histories, or the data have none.

    Raises:
        ConfigError: a table of another width, which torchrec does not take.
    """
    sharing = _sharing(config, schema)
    if not sharing:
        return None
    for name in sharing:
        own = config.tables.get(name)
        if own is not None and own.embedding_dim not in (None, config.embedding_dim):
            message = (
                f"is {own.embedding_dim}, and tables of candidates are looked up together, which takes one width: that of "
                f"model.embedding_dim ({config.embedding_dim})"
            )
            raise ConfigError.at(f"model.tables.{name}.embedding_dim", message)
    tables = [
        EmbeddingConfig(
            name=module_name(name),
            feature_names=[feature.name for feature in features],
            num_embeddings=features[0].rows,
            embedding_dim=config.embedding_dim,
        )
        for name, features in sharing.items()
    ]
    return EmbeddingCollection(tables=tables, device=torch.device(device))


def _sharing(config: ModelConfig, schema: Schema) -> dict[str, list[SparseFeature]]:
    """By name of a candidate itself and its histories."""
    if not config.unpooled_histories:
        return {}
    by_name = {feature.name: feature for feature in schema.sparse}
    sharing: dict[str, list[SparseFeature]] = {}
    for history in schema.histories:
        sharing.setdefault(history.history_of, [by_name[history.history_of]]).append(history)
    return _in_order(sharing, by_name)


def _in_order(sharing: dict[str, list[SparseFeature]], names: Iterable[str]) -> dict[str, list[SparseFeature]]:
    return {name: sharing[name] for name in names if name in sharing}
