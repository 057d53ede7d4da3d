"""What training a random model gives, computed in float64 with NumPy alone: no torchrec, no fbgemm, no ranks.

Only the initial weights and the order of the samples come from the package.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from dlrm.config.optim import Adagrad, DenseOptimizer, RowwiseAdagrad, SparseAdagrad, SparseOptimizer
from dlrm.models.build import build_model
from tests.support.random_models import RandomModel

Array = np.ndarray[Any, np.dtype[np.float64]]


@dataclass
class _Parameter:
    """A weight with its gradient, the accumulator of its optimizer, and its learning rate."""

    value: Array
    optimizer: DenseOptimizer | SparseOptimizer
    lr: float
    gradient: Array = field(init=False)
    sums: Array = field(init=False)

    def __post_init__(self) -> None:
        self.gradient = np.zeros_like(self.value)
        row_wise = isinstance(self.optimizer, RowwiseAdagrad)
        self.sums = np.zeros((len(self.value), 1) if row_wise else self.value.shape)

    def update(self) -> None:
        step = self.gradient
        if isinstance(self.optimizer, RowwiseAdagrad | SparseAdagrad | Adagrad):
            square = np.square(self.gradient)
            self.sums += square.mean(axis=1, keepdims=True) if isinstance(self.optimizer, RowwiseAdagrad) else square
            step = self.gradient / (np.sqrt(self.sums) + self.optimizer.eps)
        self.value -= self.lr * step
        self.gradient = np.zeros_like(self.value)


class _Mlp:
    """Linear layers with ReLU after each, the last one's if ``relu_last``."""

    def __init__(self, name: str, parameters: dict[str, _Parameter], *, relu_last: bool) -> None:
        layers = sum(key.startswith(f"{name}.") and key.endswith(".weight") for key in parameters)
        at = [f"{name}.linears.{layer}" for layer in range(layers)]
        self._layers = [(parameters[f"{key}.weight"], parameters[f"{key}.bias"]) for key in at]
        self._relu_last = relu_last
        self._inputs: list[Array] = []
        self._outputs: list[Array] = []

    def forward(self, x: Array) -> Array:
        self._inputs, self._outputs = [], []
        for number, (weight, bias) in enumerate(self._layers, start=1):
            self._inputs.append(x)
            x = x @ weight.value.T + bias.value
            if self._relu_last or number < len(self._layers):
                x = np.maximum(x, 0)
            self._outputs.append(x)
        return x

    def backward(self, gradient: Array) -> Array:
        """Add to the gradients of the weights, return that of the input."""
        for number in reversed(range(len(self._layers))):
            weight, bias = self._layers[number]
            if self._relu_last or number < len(self._layers) - 1:
                gradient = gradient * (self._outputs[number] > 0)
            weight.gradient += gradient.T @ self._inputs[number]
            bias.gradient += gradient.sum(axis=0)
            gradient = gradient @ weight.value
        return gradient


@dataclass(frozen=True)
class CopiesByHand:
    """Several copies of the tables.

    Attributes:
        ranks_by_copy: whose samples each learns from.
        sync_steps: after how many steps they are averaged; they are at the end, too.
        replicated: tables of which there is one for all.
    """

    ranks_by_copy: Sequence[Sequence[int]] = ((0,),)
    sync_steps: int = 1
    replicated: Collection[str] = ()

    @property
    def ranks(self) -> int:
        """Of all copies."""
        return sum(map(len, self.ranks_by_copy))

    def samples(self, of_batch: torch.Tensor) -> list[torch.Tensor]:
        """What of a batch, which ranks share out in turn, each copy learns from."""
        share = -(-len(of_batch) // self.ranks)
        return [
            torch.cat([of_batch[rank * share : (rank + 1) * share] for rank in ranks]) for ranks in self.ranks_by_copy
        ]

    def tables(self, model: RandomModel, parameters: dict[str, _Parameter]) -> list[list[_Parameter]]:
        """The tables of each copy."""
        names = [feature.name for feature in model.source.schema.sparse]
        first = [parameters[f"tables.{name}"] for name in names]
        others = [
            [table if name in self.replicated else deepcopy(table) for name, table in zip(names, first, strict=True)]
            for _ in self.ranks_by_copy[1:]
        ]
        return [first, *others]


def _average(tables_by_copy: list[list[_Parameter]]) -> None:
    for copies in zip(*tables_by_copy, strict=True):
        value, sums = (np.mean([getattr(table, what) for table in copies], axis=0) for what in ("value", "sums"))
        for table in copies:
            table.value, table.sums = value.copy(), sums.copy()


def train_by_hand(model: RandomModel, copies: CopiesByHand = CopiesByHand()) -> tuple[list[float], dict[str, Array]]:
    """The losses of the model's batches, and its tables with their optimizer's state as checkpoints name them.

    Tables are updated after each micro-batch (``train.accumulation_steps``), all else after each batch.
    """
    config, source = model.config, model.source
    parameters = _parameters(model)
    bottom, top = _Mlp("bottom_mlp", parameters, relu_last=True), _Mlp("top_mlp", parameters, relu_last=False)
    tables_by_copy = copies.tables(model, parameters)
    names = [feature.name for feature in source.schema.sparse]
    means = [
        (config.model.tables[feature.name].pooling if feature.name in config.model.tables else None) == "mean"
        for feature in source.schema.sparse
    ]
    losses = []
    for step, (epoch, batch) in enumerate(model.batches, start=1):
        of_batch = model.order.indices(epoch, batch)
        losses.append(0.0)
        for of_part in of_batch.split(config.train.global_batch_size // config.train.accumulation_steps):
            for tables, of_copy in zip(tables_by_copy, copies.samples(of_part), strict=True):
                samples = source.read(of_copy)
                counts = _counts(model, samples, means)
                labels = samples.labels_BT[:, 0].numpy().astype(np.float64)
                pooled = [count_BR @ table.value for count_BR, table in zip(counts, tables, strict=True)]
                vectors = [bottom.forward(samples.dense_BN.numpy().astype(np.float64)), *pooled]
                logits = top.forward(np.concatenate(vectors, axis=1))[:, 0]
                weights = np.ones_like(labels) if samples.weights_B is None else samples.weights_B.numpy().astype(float)
                losses[-1] += float(np.sum(weights * (np.logaddexp(0, logits) - labels * logits))) / len(of_batch)
                gradient = weights * (1 / (1 + np.exp(-logits)) - labels) / len(of_batch)
                widths = np.cumsum([vector.shape[1] for vector in vectors])[:-1]
                of_bottom, *of_tables = np.split(top.backward(gradient[:, None]), widths, axis=1)
                bottom.backward(of_bottom)
                for table, count_BR, of_table in zip(tables, counts, of_tables, strict=True):
                    table.gradient += count_BR.T @ of_table
            for name, of_copies in zip(names, zip(*tables_by_copy, strict=True), strict=True):
                for table in {id(table): table for table in of_copies}.values():
                    table.gradient *= 1 if name in copies.replicated else len(of_copies)
                    table.update()
        for name, parameter in parameters.items():
            if not name.startswith("tables."):
                parameter.update()
        if step % copies.sync_steps == 0:
            _average(tables_by_copy)
    _average(tables_by_copy)
    return losses, dict(_named_state(parameters))


def _parameters(model: RandomModel) -> dict[str, _Parameter]:
    config = model.config
    built = build_model(config.model, model.source.schema, seed=config.run.seed, tables_device="cpu")
    parameters = {}
    for name, weight in built.named_parameters():
        value = weight.detach().numpy().astype(np.float64)
        if name.startswith("tables."):
            table = name.split(".")[-2]
            rate = config.optim.sparse.lr * config.optim.lr_scale.get(table, 1.0)
            parameters[f"tables.{table}"] = _Parameter(value, config.optim.sparse, rate)
        else:
            parameters[name] = _Parameter(value, config.optim.dense, config.optim.dense.lr)
    return parameters


def _counts(model: RandomModel, samples: Any, means: list[bool]) -> list[Array]:
    """For each table (B, rows): by how much a row counts in the pooled embedding of a sample."""
    counts = []
    begin = 0
    for number, (feature, mean) in enumerate(zip(model.source.schema.sparse, means, strict=True)):
        count_BR = np.zeros((len(samples), feature.rows))
        for sample, length in enumerate(samples.lengths_BF[:, number].tolist()):
            bag = slice(begin, begin + length)
            rows = samples.ids_BS[sample, bag].tolist()
            weights = [1.0] * length if samples.id_weights_BS is None else samples.id_weights_BS[sample, bag].tolist()
            whole = sum(weights) if mean else 1
            for row, weight in zip(rows, weights, strict=True):
                count_BR[sample, row] += weight / whole if whole else 0
        counts.append(count_BR)
        begin += feature.hotness
    return counts


def _named_state(parameters: dict[str, _Parameter]) -> Any:
    for name, parameter in parameters.items():
        if name.startswith("tables."):
            yield f"{name}.weight", parameter.value
            if isinstance(parameter.optimizer, RowwiseAdagrad):
                yield f"{name}.optimizer.sum", parameter.sums[:, 0]
            elif isinstance(parameter.optimizer, SparseAdagrad):
                yield f"{name}.optimizer.sum", parameter.sums
