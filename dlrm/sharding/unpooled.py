"""What plans may do with tables whose rows are not summed (docs/sequences.md): less than with others in torchrec."""

from __future__ import annotations

from torch import nn
from torchrec.modules.embedding_modules import EmbeddingCollection

from dlrm.errors import ConfigError
from dlrm.sharding.sharder import UNPOOLED_TYPES


def unpooled_tables(model: nn.Module) -> set[str]:
    """Tables whose rows are not summed, by module name."""
    collections = (module for module in model.modules() if isinstance(module, EmbeddingCollection))
    return {table.name for collection in collections for table in collection.embedding_configs()}


def unpooled_types(kinds: list[str], key: str) -> list[str]:
    """The sharding types that torchrec has for a table whose rows are not summed."""
    known = [kind for kind in kinds if kind in UNPOOLED_TYPES]
    if not known:
        message = (
            f"has {', '.join(kinds)} only, and torchrec has no such type for a table whose rows are looked up one by one "
            f"(docs/sequences.md): allow one of {', '.join(UNPOOLED_TYPES)}"
        )
        raise ConfigError.at(key, message)
    return known
