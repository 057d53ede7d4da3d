"""Batches and weights for the tests of the model."""

import torch
from torch import nn
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from dlrm.config.model import DlrmModel
from dlrm.data.batch import Batch, make_batch
from dlrm.data.source import Samples
from dlrm.models import DLRM, build_model
from dlrm.schema import Schema


def random_batch(schema: Schema, *, samples: int, size: int | None = None, world_size: int = 1, seed: int = 0) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    ids = [torch.randint(0, feature.rows, (samples, feature.hotness), generator=generator) for feature in schema.sparse]
    drawn = Samples(
        dense_BN=torch.randn(samples, len(schema.dense), generator=generator),
        ids_BS=torch.cat(ids, dim=1),
        labels_BT=torch.randint(0, 2, (samples, 1), generator=generator).float(),
    )
    return make_batch(drawn, schema, size=size or samples, global_samples=samples * world_size, world_size=world_size)


def ragged_ids(schema: Schema, *, samples: int, longest: int, seed: int = 0) -> KeyedJaggedTensor:
    """Bags of 0 .. longest ids."""
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(0, longest + 1, (len(schema.sparse), samples), generator=generator)
    ids = [
        torch.randint(0, feature.rows, (int(count),), generator=generator)
        for feature, count in zip(schema.sparse, lengths.sum(1), strict=True)
    ]
    keys = [feature.name for feature in schema.sparse]
    return KeyedJaggedTensor(keys=keys, values=torch.cat(ids), lengths=lengths.flatten().int(), stride=samples)


def cpu_model(config: DlrmModel, schema: Schema, *, seed: int = 0) -> DLRM:
    return build_model(config, schema, seed=seed, tables_device="cpu")


@torch.no_grad()
def copy_parameters(source: nn.Module, target: nn.Module) -> None:
    """Copy in the order of definition; both have the same shapes in the same order."""
    for from_, to in zip(source.parameters(), target.parameters(), strict=True):
        assert from_.shape == to.shape
        to.copy_(from_)
