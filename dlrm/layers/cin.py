"""The compressed interaction network of xDeepFM."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
from torch import nn


class CompressedInteraction(nn.Module):
    """Layer by layer, weighted sums of the elementwise products of what was found with the fields (arXiv:1803.05170).

    Equation 6: x^k_h = sum_{i,j} W^{k,h}_{ij} (x^{k-1}_i * x^0_j), without an activation, as in the paper's experiments.
    Equation 7: p^k_h is the sum of x^k_h over its D numbers. p^+ (equation 8) holds the p of all layers.

    Attributes:
        layers: W^k as a linear layer from H_{k-1} V products to H_k maps, which is the same for each of the D numbers.
        out_features: columns of p^+.
    """

    def __init__(self, fields: int, maps: Sequence[int]) -> None:
        """Make the layers.

        Args:
            fields: V.
            maps: H_k of each layer.
        """
        super().__init__()
        self.layers = nn.ModuleList(
            nn.Linear(before * fields, after, bias=False) for before, after in itertools.pairwise([fields, *maps])
        )
        self.out_features = sum(maps)

    def forward(self, fields_BVD: torch.Tensor) -> torch.Tensor:
        """p^+, float32 (B, out_features)."""
        fields_BDV = fields_BVD.transpose(1, 2)
        maps_BDH = fields_BDV
        sums = []
        for layer in self.layers:
            products_BDHV = maps_BDH.unsqueeze(3) * fields_BDV.unsqueeze(2)
            maps_BDH = layer(products_BDHV.flatten(2))
            sums.append(maps_BDH.sum(1, dtype=fields_BVD.dtype))  # in full, also where the maps are bfloat16
        return torch.cat(sums, dim=1)
