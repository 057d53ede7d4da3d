"""From configuration and schema to a model."""

from __future__ import annotations

import torch

from dlrm.config.model import (
    DcnV1Model,
    DeepFmModel,
    DinModel,
    DlrmModel,
    FinalMlpModel,
    FmModel,
    LrModel,
    ModelConfig,
    WideDeepModel,
    WukongModel,
    XDeepFmModel,
)
from dlrm.models import dcn_v1, deepfm, din, dlrm, finalmlp, fm, lr, wide_deep, wukong, xdeepfm
from dlrm.models.base import Model
from dlrm.models.init import initialise_dense, initialise_tables
from dlrm.models.tables import build_embedding
from dlrm.schema import Schema


def build_model(
    config: ModelConfig,
    schema: Schema,
    *,
    seed: int,
    rank: int = 0,
    tables_device: str | torch.device = "meta",
    half_tables: bool = False,
) -> Model:
    """The model with initialised weights; all but the tables on the CPU.

    Args:
        config: which, and its sizes.
        schema: number of dense features; names and rows of the tables.
        seed: of initial weights and dropout.
        rank: which part of each global batch this process computes (matters to dropout only).
        tables_device: where the tables live. On ``meta`` they have neither memory nor values yet; elsewhere they are
            initialised, too.
        half_tables: whether their weights are float16.

    Raises:
        ConfigError: the configuration does not fit the schema.
    """
    embedding = build_embedding(config, schema, device=tables_device, half=half_tables)
    model: Model
    match config:
        case DlrmModel():
            model = dlrm.build(config, schema, embedding, seed=seed, rank=rank)
        case DeepFmModel():
            model = deepfm.build(config, schema, embedding, seed=seed, rank=rank)
        case DinModel():
            model = din.build(config, schema, embedding, seed=seed, rank=rank)
        case LrModel():
            model = lr.build(config, schema, embedding)
        case FmModel():
            model = fm.build(config, schema, embedding)
        case WideDeepModel():
            model = wide_deep.build(config, schema, embedding, seed=seed, rank=rank)
        case DcnV1Model():
            model = dcn_v1.build(config, schema, embedding, seed=seed, rank=rank)
        case XDeepFmModel():
            model = xdeepfm.build(config, schema, embedding, seed=seed, rank=rank)
        case FinalMlpModel():
            model = finalmlp.build(config, schema, embedding, seed=seed, rank=rank)
        case WukongModel():
            model = wukong.build(config, schema, embedding, seed=seed, rank=rank)
    initialise_dense(model, seed)
    if torch.device(tables_device).type != "meta":
        initialise_tables(model, seed, bound=config.embedding_init_bound)
    return model
