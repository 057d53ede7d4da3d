"""Models with random weights as checkpoints that nothing was trained for, which is quicker."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch

from dlrm.checkpoint.tensors import GlobalTensor, weight_name
from dlrm.config import Config, load_config
from dlrm.config.describe import to_plain
from dlrm.data.batch import make_batch
from dlrm.data.build import build_dataset
from dlrm.data.source import Samples
from dlrm.inference.features import Features
from dlrm.lookups.jagged import RowsLookedUp
from dlrm.models.base import Model
from dlrm.models.build import build_model
from dlrm.schema import Schema
from dlrm.table_names import module_name, state_name
from tests.support.exports import TINY
from tests.unit.checkpoint.states import save_ranks


@dataclass(frozen=True)
class SavedModel:
    """A checkpoint and the model that is in it.

    Attributes:
        path: of the checkpoint; config, schema: of the model; state: its weights as the checkpoint calls them.
    """

    path: Path
    config: Config
    schema: Schema
    model: Model
    state: dict[str, torch.Tensor]

    @torch.no_grad()
    def logits(self, features: Features) -> torch.Tensor:
        """float32 (B, T), of the trainer's model."""
        size = len(features)
        samples = Samples(
            dense_BN=features.dense_BN,
            ids_BS=features.ids_BS,
            labels_BT=torch.zeros(size, len(self.schema.tasks)),
            lengths_BF=features.lengths_BF,
        )
        batch = make_batch(samples, self.schema, size=size, global_samples=size, world_size=1)
        logits_BT: torch.Tensor = self.model.eval()(batch.dense, RowsLookedUp(self.model.lookups)(batch.sparse))
        return logits_BT


def save_model(
    folder: Path,
    *options: str,
    schema: Schema | None = None,
    step: int = 1,
    seed: int = 1,
    metadata: Mapping[str, Any] = MappingProxyType({}),
) -> SavedModel:
    """Save a model as one rank would.

    Args:
        folder: for checkpoints.
        options: of training; those of the model replace :data:`TINY`'s.
        schema: of other data than those of the configuration.
        step, seed: of the checkpoint, and of its weights.
        metadata: of the checkpoint, besides its configuration.
    """
    whole = {option.partition("=")[0] + "." for option in options}
    tiny = [option for option in TINY if not option.startswith(tuple(whole & {"--data.", "--model."}))]
    config = load_config(None, [*tiny, *options])
    schema = schema or build_dataset(config.data).schema
    model = build_model(config.model, schema, seed=seed, tables_device="cpu")
    state = {name: tensor.detach() for name, tensor in model.state_dict().items()}
    for table in model.lookups.tables:
        weight = state.pop(f"tables.embedding_bags.{module_name(table.name)}.weight")
        state[weight_name(state_name(table.name))] = weight[:, : table.dim].contiguous()
    tensors = [GlobalTensor.of(name, tensor) for name, tensor in state.items()]
    path = save_ranks(folder, step, [tensors], {"config": to_plain(config), **metadata})
    return SavedModel(path, config, schema, model, state)


def random_features(schema: Schema, rows: int, seed: int = 0) -> Features:
    """Rows with random ids, int64, and bags that are not all full."""
    generator = torch.Generator().manual_seed(seed)
    ids = [torch.randint(0, f.rows, (rows, f.hotness), generator=generator) for f in schema.sparse]
    features = Features(torch.randn(rows, len(schema.dense), generator=generator), torch.cat(ids, 1))
    if all(feature.hotness == 1 for feature in schema.sparse):
        return features
    hotness_F = torch.tensor([feature.hotness for feature in schema.sparse])
    lengths_BF = (torch.rand(rows, len(hotness_F), generator=generator) * (hotness_F + 1)).int()
    return replace(features, lengths_BF=lengths_BF)
