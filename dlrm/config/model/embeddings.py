"""How the ids of a feature become rows of its table, each a variant chosen by ``kind``."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from dlrm.config.base import Section
from dlrm.config.model.compressed import FrequencyCapped, HashedEmbedding, MixedDim, QuotientRemainder
from dlrm.config.model.growing import GrowingEmbedding


class FullEmbedding(Section):
    """Every id has a row: a table has as many as the data say."""

    kind: Literal["full"] = "full"


EmbeddingConfig = Annotated[
    FullEmbedding | HashedEmbedding | QuotientRemainder | FrequencyCapped | MixedDim | GrowingEmbedding,
    Field(discriminator="kind"),
]
