"""What FinalMLP has around its two MLPs: gates before them, and a bilinear form after them (arXiv:2304.00902)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from dlrm.layers.mlp import MLP

_LEARNED_CONTEXT = 16


class FeatureGate(nn.Module):
    """Weighs each column of the input: 2 sigmoid(MLP(context)) * x (section "Stream-specific feature selection", eq. 3).

    The context are columns of the input; where none are given, it is learned and the same for all samples.

    Attributes:
        context: float32 (1, 16), or None where it is columns of the input.
        gate: the MLP.
    """

    initial_std = 0.01  # of the learned context
    columns_C: torch.Tensor

    def __init__(self, width: int, hidden: Sequence[int], columns: Sequence[int]) -> None:
        """Make the module.

        Args:
            width: X, columns of the input.
            hidden: sizes of the MLP's hidden layers.
            columns: of the input that are the context; may be none.
        """
        super().__init__()
        self.context = None if columns else nn.Parameter(torch.empty(1, _LEARNED_CONTEXT))
        self.register_buffer("columns_C", torch.tensor(columns, dtype=torch.int64), persistent=False)
        self.gate = MLP(len(columns) or _LEARNED_CONTEXT, (*hidden, width), relu_last=False, gives_logits=False)

    def forward(self, x_BX: torch.Tensor) -> torch.Tensor:
        """float32 (B, X) -> float32 (B, X)."""
        context = x_BX.index_select(1, self.columns_C) if self.context is None else self.context
        weights: torch.Tensor = 2 * torch.sigmoid(self.gate(context))
        return weights * x_BX


class BilinearFusion(nn.Module):
    """The logits of two vectors, b + w_1^T o_1 + w_2^T o_2 + o_1^T W_3 o_2 (equation 5), with several heads (equation 6).

    K heads cut both vectors into K parts, and the form is the sum of those of the parts: W_3 has a block for each pair of
    parts that belong together. Each task has weights of its own.

    Attributes:
        first, second: w_1 with b, and w_2.
        products: for each head, W_3 of all tasks as a linear layer from the first vector's part to T rows for the
            second's.
    """

    def __init__(self, first: int, second: int, *, heads: int, tasks: int) -> None:
        """Make the weights.

        Args:
            first: columns of the first vector, a multiple of ``heads``.
            second: the same of the second.
            heads: K.
            tasks: T.
        """
        super().__init__()
        self.heads, self.tasks = heads, tasks
        self.first = nn.Linear(first, tasks)
        self.second = nn.Linear(second, tasks, bias=False)
        self.products = nn.ModuleList(
            nn.Linear(first // heads, tasks * (second // heads), bias=False) for _ in range(heads)
        )

    def forward(self, first_BI: torch.Tensor, second_BJ: torch.Tensor) -> torch.Tensor:
        """float32 (B, I) and (B, J) -> float32 (B, T)."""
        dtype = self.first.weight.dtype
        if first_BI.dtype != dtype:  # logits are float32 where the streams compute in bfloat16
            first_BI, second_BJ = first_BI.to(dtype), second_BJ.to(dtype)
        logits_BT: torch.Tensor = self.first(first_BI) + self.second(second_BJ)
        parts = first_BI.unflatten(1, (self.heads, -1)).unbind(1), second_BJ.unflatten(1, (self.heads, -1)).unbind(1)
        for layer, left_BI, right_BJ in zip(self.products, *parts, strict=True):
            rows_BTJ = layer(left_BI).unflatten(1, (self.tasks, -1))
            logits_BT = logits_BT + (rows_BTJ * right_BJ.unsqueeze(1)).sum(2)
        return logits_BT
