"""How the losses of several tasks become one: by fixed weights, or by weights that are learned with the model."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn


class FixedWeights(nn.Module):
    """The sum of the losses times weights.

    Args:
        weights: of the tasks.
    """

    def __init__(self, weights: Sequence[float]) -> None:
        super().__init__()
        self._weights = tuple(weights)

    def forward(self, losses_T: torch.Tensor, weights_BT: torch.Tensor, loss_scale: torch.Tensor) -> torch.Tensor:
        """float32 (T,), the losses; weights of labels and loss_scale as in the batch -> float32 ()."""
        if all(weight == 1 for weight in self._weights):
            return losses_T.sum()
        return torch.stack([losses_T[task] * weight for task, weight in enumerate(self._weights)]).sum()

    def weights(self) -> list[float]:
        """Of each task's loss."""
        return list(self._weights)


class UncertaintyWeights(nn.Module):
    """Weights by what is uncertain in each task (Kendall et al., arXiv:1705.07115, section 3.2).

    A task's labels are taken to be drawn from the model's logits over a temperature sigma^2, which is learned: where a task
    cannot be predicted well, it grows. For a classification the negative log likelihood is about
    ``cross-entropy / sigma^2 + log sigma``. (The approximation of the paper's equation 10 for softmax; it is exact for
    sigma = 1, where training begins. The factor 1/2 of that equation belongs to the squared errors of a regression.) With
    ``s = log sigma^2``, which needs no bounds, what is trained is

        sum over the tasks t of ``exp(-s_t) * loss_t + share_t * s_t / 2``,

    where both loss_t and share_t (of 1) are sums over the labels that are there, divided by the samples of the global
    batch: the likelihood of a label that is missing is left out as a whole. At the optimum exp(s_t) is twice the task's
    mean cross-entropy over its labels, however many are missing.

    Attributes:
        log_variances: float32 (T,), s; zeros at the start.
    """

    def __init__(self, tasks: int) -> None:
        super().__init__()
        self.log_variances = nn.Parameter(torch.zeros(tasks))

    def forward(self, losses_T: torch.Tensor, weights_BT: torch.Tensor, loss_scale: torch.Tensor) -> torch.Tensor:
        """float32 (T,), the losses; weights of labels and loss_scale as in the batch -> float32 ()."""
        shares_T = loss_scale * weights_BT.sum(0)
        return (torch.exp(-self.log_variances) * losses_T + shares_T * self.log_variances / 2).sum()

    def weights(self) -> list[float]:
        """Of each task's loss: exp(-s)."""
        found: list[float] = self.log_variances.detach().neg().exp().tolist()
        return found
