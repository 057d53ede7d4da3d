"""The models, each a variant chosen by ``kind``, one file each."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from dlrm.config.model.base import EqualWidths, ModelSection, Pooling, TableOverride
from dlrm.config.model.compressed import FrequencyCapped, HashedEmbedding, MixedDim, QuotientRemainder
from dlrm.config.model.dcn_v1 import DcnV1Model
from dlrm.config.model.deepfm import DeepFmModel
from dlrm.config.model.din import Attention, DinModel, LocalActivation, SumPooling
from dlrm.config.model.dlrm import BOTTOM_MLP, DlrmModel
from dlrm.config.model.embeddings import EmbeddingConfig, FullEmbedding
from dlrm.config.model.finalmlp import FinalMlpModel
from dlrm.config.model.fm import FmModel
from dlrm.config.model.growing import GrowingEmbedding
from dlrm.config.model.heads import Heads, Mmoe, Ple, SharedBottom
from dlrm.config.model.interactions import (
    CatInteraction,
    DcnInteraction,
    DotInteraction,
    Interaction,
    ProjectionInteraction,
)
from dlrm.config.model.lr import LrModel
from dlrm.config.model.wide_deep import WideDeepModel
from dlrm.config.model.wukong import WukongModel
from dlrm.config.model.xdeepfm import XDeepFmModel

__all__ = [
    "BOTTOM_MLP",
    "Attention",
    "CatInteraction",
    "DcnInteraction",
    "DcnV1Model",
    "DeepFmModel",
    "DinModel",
    "DlrmModel",
    "DotInteraction",
    "EmbeddingConfig",
    "EqualWidths",
    "FinalMlpModel",
    "FmModel",
    "FrequencyCapped",
    "FullEmbedding",
    "GrowingEmbedding",
    "HashedEmbedding",
    "Heads",
    "Interaction",
    "LocalActivation",
    "LrModel",
    "MixedDim",
    "Mmoe",
    "ModelConfig",
    "ModelSection",
    "Ple",
    "Pooling",
    "ProjectionInteraction",
    "QuotientRemainder",
    "SharedBottom",
    "SumPooling",
    "TableOverride",
    "WideDeepModel",
    "WukongModel",
    "XDeepFmModel",
]

ModelConfig = Annotated[
    DlrmModel
    | DeepFmModel
    | DinModel
    | LrModel
    | FmModel
    | WideDeepModel
    | DcnV1Model
    | XDeepFmModel
    | FinalMlpModel
    | WukongModel,
    Field(discriminator="kind"),
]
