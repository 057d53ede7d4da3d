"""Experts: MLPs of one shape side by side, and what mixes their outputs."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
from torch import nn

from dlrm.counter_rng import stream_key
from dlrm.layers.dropout import SampleDropout


class ExpertLinear(nn.Module):
    """A linear layer of each of E experts, all of them in one matrix product, or one batch of them.

    Experts share inputs in equal parts: of G inputs the first is that of the first E / G experts, and so on.

    Attributes:
        weight: float32 (E, out_features, in_features); bias: float32 (E, out_features), or None.
        inputs: G.
    """

    def __init__(self, in_features: int, out_features: int, *, experts: int, inputs: int, bias: bool = True) -> None:
        super().__init__()
        assert experts % inputs == 0
        self.inputs = inputs
        self.weight = nn.Parameter(torch.empty(experts, out_features, in_features))
        self.bias = nn.Parameter(torch.empty(experts, out_features)) if bias else None

    def forward(self, x_BGI: torch.Tensor) -> torch.Tensor:
        """float32 (B, G, in_features) -> float32 (B, E, out_features)."""
        experts, outputs, inputs = self.weight.shape
        weight_GOI = self.weight.view(self.inputs, -1, inputs)
        bias_GO = None if self.bias is None else self.bias.view(self.inputs, -1)
        if self.inputs == 1:
            bias_O = None if bias_GO is None else bias_GO[0]
            return nn.functional.linear(x_BGI[:, 0], weight_GOI[0], bias_O).view(-1, experts, outputs)
        x_GBI, weight_GIO = x_BGI.transpose(0, 1), weight_GOI.transpose(1, 2)
        y_GBO = (
            torch.bmm(x_GBI, weight_GIO) if bias_GO is None else torch.baddbmm(bias_GO.unsqueeze(1), x_GBI, weight_GIO)
        )
        return y_GBO.transpose(0, 1).reshape(-1, experts, outputs)

    def unrolled(self) -> nn.Module:
        """The same as plain linear layers, for who knows nothing else."""
        return _Unrolled(self)


class _Unrolled(nn.Module):
    """An :class:`ExpertLinear` as a linear layer for each input."""

    def __init__(self, layer: ExpertLinear) -> None:
        super().__init__()
        self._experts, self._outputs, in_features = layer.weight.shape
        columns = self._experts // layer.inputs * self._outputs
        self.linears = nn.ModuleList(
            nn.Linear(in_features, columns, bias=layer.bias is not None) for _ in range(layer.inputs)
        )
        for g, linear in enumerate(self.linears):
            linear.weight.data = layer.weight.detach().view(layer.inputs, columns, in_features)[g].clone()
            if layer.bias is not None:
                linear.bias.data = layer.bias.detach().view(layer.inputs, columns)[g].clone()

    def forward(self, x_BGI: torch.Tensor) -> torch.Tensor:
        """float32 (B, G, in_features) -> float32 (B, E, out_features)."""
        y_BO = torch.cat([linear(x_BI) for linear, x_BI in zip(self.linears, x_BGI.unbind(1), strict=True)], dim=1)
        return y_BO.view(-1, self._experts, self._outputs)


class Experts(nn.Module):
    """MLPs of one shape: linear layers, each followed by a ReLU.

    Attributes:
        layers: of all experts.
        out_shape: E, and the size of the last layer.
    """

    def __init__(
        self,
        in_features: int,
        sizes: Sequence[int],
        *,
        experts: int,
        inputs: int,
        name: str,
        dropout: float,
        seed: int,
        rank: int,
    ) -> None:
        """Make the layers.

        Args:
            in_features: columns of an input.
            sizes: outputs of each layer of an expert, at least one layer.
            experts: E.
            inputs: G, which they share in equal parts.
            name: of these experts within the model, for other masks than others have.
            dropout: share of the hidden units (all outputs but the last layer's) dropped in training.
            seed: of dropout.
            rank: which part of the global batch this process computes.
        """
        super().__init__()
        self.layers = nn.ModuleList(
            ExpertLinear(before, after, experts=experts, inputs=experts if layer else inputs)
            for layer, (before, after) in enumerate(itertools.pairwise([in_features, *sizes]))
        )
        self.dropouts = nn.ModuleList(
            SampleDropout(dropout, key=stream_key(seed, "dropout", name, layer), rank=rank)
            if dropout
            else nn.Identity()
            for layer in range(len(sizes) - 1)
        )
        self.out_shape = experts, sizes[-1]

    def forward(self, x_BGI: torch.Tensor) -> torch.Tensor:
        """float32 (B, G, in_features) -> float32 (B, E, sizes[-1])."""
        *hidden, last = self.layers
        x_BEH = x_BGI
        for layer, dropout in zip(hidden, self.dropouts, strict=True):
            x_BEH = torch.relu(layer(x_BEH))
            x_BEH = dropout(x_BEH.flatten(1)).view_as(x_BEH)
        return torch.relu(last(x_BEH))


class Mixture(nn.Module):
    """Sums of experts' outputs, weighted sample by sample."""

    def forward(self, weights_BTE: torch.Tensor, outputs_BEH: torch.Tensor) -> torch.Tensor:
        """(B, T, E) and (B, E, H) -> (B, T, H)."""
        return torch.bmm(weights_BTE, outputs_BEH)
