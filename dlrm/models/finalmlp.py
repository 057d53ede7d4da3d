"""FinalMLP (arXiv:2304.00902): two MLPs on differently gated features, joined by a bilinear form."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import nn
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from dlrm.config.model import FinalMlpModel
from dlrm.counter_rng import stream_key
from dlrm.errors import ConfigError, ConfigProblem
from dlrm.format import did_you_mean, escaped
from dlrm.layers.mlp import MLP
from dlrm.layers.two_streams import BilinearFusion, FeatureGate
from dlrm.models.base import Model
from dlrm.models.tables import Embedding
from dlrm.schema import Schema


class FinalMLP(Model):
    """Figure 1: gates, two streams of an MLP each on dense features and vectors, bilinear fusion of their outputs.

    Attributes:
        tables, gate1, gate2, stream1, stream2, fusion: the parts with weights; the gates pass everything on where there is
            no feature selection.
    """

    lower_precision = ("gate1", "gate2", "stream1", "stream2")

    def __init__(
        self, *, embedding: Embedding, gates: Sequence[nn.Module], streams: Sequence[MLP], fusion: BilinearFusion
    ) -> None:
        super().__init__(embedding)
        self.gate1, self.gate2 = gates
        self.stream1, self.stream2 = streams
        self.fusion = fusion

    def forward(self, dense_BN: torch.Tensor, sparse: KeyedJaggedTensor) -> torch.Tensor:
        """float32 (B, T), the logits; see :meth:`dlrm.models.base.Model.forward`."""
        pooled = self.tables(sparse)
        x_BX = torch.cat((dense_BN, self.vectors(pooled, sparse)), dim=1)
        return self.fusion(self.stream1(self.gate1(x_BX)), self.stream2(self.gate2(x_BX)))  # type: ignore[no-any-return]


def build(config: FinalMlpModel, schema: Schema, embedding: Embedding, *, seed: int, rank: int) -> FinalMLP:
    """The model around its embedding; its weights are drawn later.

    Raises:
        ConfigError: gates are to depend on features that the data do not have.
    """
    columns = _columns(schema, embedding)
    if problems := list(_unknown_features(config, list(columns))):
        raise ConfigError(problems)
    width = len(schema.dense) + sum(embedding.dims)
    streams = [
        MLP(width, sizes, relu_last=True, dropout=config.dropout, seed=stream_key(seed, name), rank=rank)
        for name, sizes in (("stream1", config.stream1), ("stream2", config.stream2))
    ]
    gates = [
        FeatureGate(width, config.gates, [column for name in names for column in columns[name]])
        if config.gates
        else nn.Identity()
        for names in (config.gate_features1, config.gate_features2)
    ]
    first, second = (stream.out_features for stream in streams)
    fusion = BilinearFusion(first, second, heads=config.fusion_heads, tasks=len(schema.tasks))
    return FinalMLP(embedding=embedding, gates=gates, streams=streams, fusion=fusion)


def _columns(schema: Schema, embedding: Embedding) -> dict[str, range]:
    """Where each feature stands among the dense features and vectors side by side."""
    columns = {name: range(i, i + 1) for i, name in enumerate(schema.dense)}
    start = len(schema.dense)
    for feature, dim in zip(schema.sparse, embedding.dims, strict=True):
        columns[feature.name] = range(start, start + dim)
        start += dim
    return columns


def _unknown_features(config: FinalMlpModel, known: list[str]) -> Iterator[ConfigProblem]:
    for option in ("gate_features1", "gate_features2"):
        for name in getattr(config, option):
            if name not in known:
                hint = did_you_mean(name, known, cutoff=0.5) or f"there are {len(known)}"
                message = f"names {escaped(name, 40)}, and the data have no such feature; {hint}"
                yield ConfigProblem(f"model.{option}", "", message)
