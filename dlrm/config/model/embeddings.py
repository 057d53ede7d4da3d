"""How the ids of a feature become rows of its table, each a variant chosen by ``kind``."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from dlrm.config.base import Section
from dlrm.config.model.compressed import FrequencyCapped, HashedEmbedding, MixedDim, QuotientRemainder


class FullEmbedding(Section):
    """Every id has a row: a table has as many as the data say."""

    kind: Literal["full"] = "full"


EmbeddingConfig = Annotated[
    FullEmbedding | HashedEmbedding | QuotientRemainder | FrequencyCapped | MixedDim, Field(discriminator="kind")
]
