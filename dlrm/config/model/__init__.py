"""The models, each a variant chosen by ``kind``, one file each."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from dlrm.config.model.base import ModelSection, Pooling, TableOverride
from dlrm.config.model.deepfm import DeepFmModel
from dlrm.config.model.din import Attention, DinModel, LocalActivation, SumPooling
from dlrm.config.model.dlrm import BOTTOM_MLP, DlrmModel
from dlrm.config.model.heads import SharedBottom
from dlrm.config.model.interactions import (
    CatInteraction,
    DcnInteraction,
    DotInteraction,
    Interaction,
    ProjectionInteraction,
)

__all__ = [
    "BOTTOM_MLP",
    "Attention",
    "CatInteraction",
    "DcnInteraction",
    "DeepFmModel",
    "DinModel",
    "DlrmModel",
    "DotInteraction",
    "Interaction",
    "LocalActivation",
    "ModelConfig",
    "ModelSection",
    "Pooling",
    "ProjectionInteraction",
    "SharedBottom",
    "SumPooling",
    "TableOverride",
]

ModelConfig = Annotated[DlrmModel | DeepFmModel | DinModel, Field(discriminator="kind")]
