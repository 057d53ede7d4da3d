"""The sharders: what torchrec may do with a table on each device."""

from __future__ import annotations

from torchrec.distributed.embedding import EmbeddingCollectionSharder
from torchrec.distributed.embedding_types import BaseEmbeddingSharder
from torchrec.distributed.embeddingbag import EmbeddingBagCollectionSharder
from torchrec.distributed.fbgemm_qcomm_codec import CommType, QCommsConfig, get_qcomm_codecs
from torchrec.distributed.types import CommOp, ShardingType

from dlrm.config.precision import ExchangeConfig

Sharders = list[BaseEmbeddingSharder]
"""One for each kind of collection."""

_POOLED = (CommOp.POOLED_EMBEDDINGS_ALL_TO_ALL, CommOp.POOLED_EMBEDDINGS_REDUCE_SCATTER)
_UNPOOLED = (CommOp.SEQUENCE_EMBEDDINGS_ALL_TO_ALL,)


class TableSharder(EmbeddingBagCollectionSharder):  # type: ignore[misc]  # torchrec is untyped here
    """torchrec's sharder, with every sharding type on offer on CPU too.

    torchrec offers row-wise, table-row-wise and grid sharding on CUDA only, although they run on gloo as they are.
    """

    def sharding_types(self, compute_device_type: str) -> list[str]:
        """Every sharding type, whatever the device."""
        return [kind.value for kind in ShardingType]


UNPOOLED_TYPES: tuple[str, ...] = tuple(EmbeddingCollectionSharder().sharding_types("cpu"))
"""What torchrec offers for tables whose rows are not summed, on all devices."""


def build_sharders(exchange: ExchangeConfig) -> Sharders:
    """The sharders whose tables send embeddings and their gradients in the configured formats.

    Planner and model need the same ones: the planner weighs the bytes that are sent. (torchrec's own
    ``get_qcomm_codecs_registry`` puts fp16 in the place of bf16 on CPU and only logs it; gloo takes both.)
    """
    if (exchange.forward, exchange.backward) == ("fp32", "fp32"):
        return [TableSharder(), EmbeddingCollectionSharder()]
    config = QCommsConfig(forward_precision=CommType(exchange.forward), backward_precision=CommType(exchange.backward))
    pooled, unpooled = (
        {operation.name: get_qcomm_codecs(config) for operation in operations} for operations in (_POOLED, _UNPOOLED)
    )
    return [TableSharder(qcomm_codecs_registry=pooled), EmbeddingCollectionSharder(qcomm_codecs_registry=unpooled)]
