"""An L2 penalty of the rows that a batch looks up, in the gradient of what they are pooled to."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn


class RowDecay(nn.Module):
    """Passes pooled embeddings on; in training their gradient gets that of the penalty.

    The penalty is ``decay / 2 * (1 / N) * sum of |w|^2`` over all rows w that the N samples of the global batch look up,
    each as often as it is looked up. So a row that occurs c times gets ``decay * c / N * w`` more gradient, as if it were a
    term of the loss, before the tables' optimizer makes anything of it. (Factorization machines are regularised so, step by
    step: Rendle 2010, section III.D; DIN does it with the frequencies of the data in the place of the batch's:
    arXiv:1706.06978, section 5.1.) It is not decoupled: an adaptive optimizer scales it as it does the rest.

    What is pooled is the row itself where a bag holds one id. Of several ids all would get the gradient of their sum, which
    is not that of their squares: such features are refused before training.

    Args:
        decay: of the penalty.

    Attributes:
        loss_scale: float32 (), ranks / N, of the batch under way; :class:`~dlrm.models.task.TrainTask` notes it.
    """

    def __init__(self, decay: float) -> None:
        super().__init__()
        self._decay = decay
        self.loss_scale: torch.Tensor | None = None

    def forward(self, pooled_BX: torch.Tensor) -> torch.Tensor:
        """The same, float32 (B, X)."""
        if not self.training or self.loss_scale is None:
            return pooled_BX
        decayed_BX: torch.Tensor = _Decayed.apply(pooled_BX, self._decay * self.loss_scale)  # type: ignore[no-untyped-call]
        return decayed_BX


class _Decayed(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, pooled_BX: torch.Tensor, factor: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(pooled_BX, factor)
        return pooled_BX.view_as(pooled_BX)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, None]:
        pooled_BX, factor = ctx.saved_tensors
        return torch.addcmul(gradients[0], pooled_BX, factor), None
