"""Batches and weights for the tests of the model."""

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from dlrm.config.model import DlrmModel
from dlrm.data.batch import Batch, make_batch
from dlrm.data.source import Samples
from dlrm.models import DLRM, build_model
from dlrm.models.base import Model
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


Weights = dict[str, NDArray[np.float64]]
"""Of a model's parameters, by name."""


def assert_logits_by_hand(
    config: object,
    by_hand: Callable[[Weights, NDArray[np.float64], list[NDArray[np.float64]]], object],
    *,
    num_dense: int = 3,
    rows: tuple[int, ...] = (5, 9, 30),
    tasks: tuple[str, ...] = ("click", "like"),
    samples: int = 6,
) -> Model:
    """See that the logits are those of a computation in float64, sample by sample, in training and in evaluation.

    Args:
        config: of the model.
        by_hand: from weights, dense features (N,) and the pooled row of each table to the logits of the tasks.
        num_dense, rows, tasks: of the data. Bags have up to 3 ids.
        samples: how many are compared.
    """
    schema = Schema.numbered(num_dense, rows, [2, 1, 3][: len(rows)], tasks=tasks)
    model = cpu_model(config, schema, seed=1)
    sparse = ragged_ids(schema, samples=samples, longest=3)
    dense_BN = torch.randn(samples, num_dense, generator=torch.Generator().manual_seed(2))
    weights = {name: value.detach().double().numpy() for name, value in model.named_parameters()}
    expected = []
    for sample in range(samples):
        pooled = []
        for feature in schema.sparse:
            table = weights[f"tables.embedding_bags.{feature.name}.weight"]
            ids = sparse[feature.name].to_dense()[sample].tolist()
            pooled.append(sum((table[i] for i in ids), np.zeros(table.shape[1])))
        expected.append(by_hand(weights, dense_BN[sample].double().numpy(), pooled))
    for mode in (True, False):
        logits_BT = model.train(mode)(dense_BN, sparse)
        assert logits_BT.shape == (samples, len(tasks))
        np.testing.assert_allclose(logits_BT.detach().numpy(), expected, rtol=1e-4, atol=1e-5)
    return model


def mlp_by_hand(x: NDArray[np.float64], weights: Weights, name: str, *, relu_last: bool = False) -> NDArray[np.float64]:
    """An MLP's output for one sample."""
    layers = sum(key.startswith(f"{name}.linears.") and key.endswith(".weight") for key in weights)
    for layer in range(layers):
        x = weights[f"{name}.linears.{layer}.weight"] @ x + weights[f"{name}.linears.{layer}.bias"]
        x = np.maximum(x, 0.0) if layer < layers - 1 or relu_last else x
    return x
