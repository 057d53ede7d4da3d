"""The sharder: what torchrec may do with a table on each device."""

from __future__ import annotations

from torchrec.distributed.embeddingbag import EmbeddingBagCollectionSharder
from torchrec.distributed.types import ShardingType


class TableSharder(EmbeddingBagCollectionSharder):  # type: ignore[misc]  # torchrec is untyped here
    """torchrec's sharder, with every sharding type on offer on CPU too.

    torchrec offers row-wise, table-row-wise and grid sharding on CUDA only, although they run on gloo as they are.
    """

    def sharding_types(self, compute_device_type: str) -> list[str]:
        """Every sharding type, whatever the device."""
        return [kind.value for kind in ShardingType]
