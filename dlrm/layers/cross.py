"""The cross layers of DCN's first version."""

from __future__ import annotations

import torch
from torch import nn
from torchrec.modules.crossnet import VectorCrossNet


class VectorCross(VectorCrossNet):  # type: ignore[misc]  # torchrec is untyped here
    """x_{l+1} = x_0 (x_l^T w_l) + b_l + x_l (arXiv:1708.05123, equation 3): a vector a layer where DCN v2 has a matrix.

    torchrec's module with its weights, and with fewer passes over memory.
    """

    def forward(self, x0_BX: torch.Tensor) -> torch.Tensor:
        """float32 (B, X) -> float32 (B, X)."""
        x_BX = x0_BX
        for weight_X1, bias_X1 in zip(self.kernels, self.bias, strict=True):
            scale_B1 = nn.functional.linear(x_BX, weight_X1.t())
            x_BX = torch.addcmul(x_BX, x0_BX, scale_B1) + bias_X1.squeeze(1)
        return x_BX
