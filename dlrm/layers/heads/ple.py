"""Progressive layered extraction (Tang et al., RecSys 2020)."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch
from torch import nn

from dlrm.layers.heads.experts import ExpertLinear, Experts, Mixture


class Extraction(nn.Module):
    """A level: experts of each task and experts that all share, mixed for each task from its own and the shared ones.

    With x_k the input of task k, ``g^k = w^k(x_k) S^k``, where ``w^k(x_k) = softmax(W_g^k x_k)``, and S^k has what the
    experts of task k make of x_k, and the shared ones of x_s (equations 1-3; customized gate control, section 4.1).
    The next level gets as x_s a mixture of the outputs of all experts, by a gate on this level's x_s (section 4.2).

    Attributes:
        of_tasks: T * M experts, those of the first task first; shared: S experts.
        gates: T matrices W_g^k; shared_gate: that of x_s, None on the last level.
    """

    def __init__(
        self,
        in_features: int,
        sizes: Sequence[int],
        *,
        tasks: int,
        of_task: int,
        shared: int,
        level: int,
        last: bool,
        dropout: float,
        seed: int,
        rank: int,
    ) -> None:
        """Make the level.

        Args:
            in_features: columns of an input.
            sizes: outputs of each layer of an expert.
            tasks: T.
            of_task: M, experts of each of them.
            shared: S, experts that all share.
            level: counted from 0; on the first one all inputs are the same.
            last: whether no level follows.
            dropout: see :class:`Experts`.
            seed: of dropout.
            rank: which part of the global batch this process computes.
        """
        super().__init__()
        self.tasks, self.of_task = tasks, of_task
        inputs = tasks if level else 1
        build = partial(Experts, in_features, sizes, dropout=dropout, seed=seed, rank=rank)
        self.of_tasks = build(experts=tasks * of_task, inputs=inputs, name=f"ple {level} tasks")
        self.shared = build(experts=shared, inputs=1, name=f"ple {level} shared")
        self.gates = ExpertLinear(in_features, of_task + shared, experts=tasks, inputs=inputs, bias=False)
        self.shared_gate = (
            None if last else ExpertLinear(in_features, tasks * of_task + shared, experts=1, inputs=1, bias=False)
        )
        self.mixture = Mixture()

    def forward(self, x_BGI: torch.Tensor, shared_B1I: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """One level.

        Args:
            x_BGI: float32 (B, T, in_features), of each task; (B, 1, in_features) on the first level.
            shared_B1I: float32 (B, 1, in_features).

        Returns:
            float32 (B, T, sizes[-1]), of each task; (B, 1, sizes[-1]), shared, which the last level makes nothing of.
        """
        of_tasks_BEH, shared_BSH = self.of_tasks(x_BGI), self.shared(shared_B1I)
        gates_BTE = self.gates(x_BGI).softmax(dim=2)
        own_BTM, others_BTS = gates_BTE[..., : self.of_task], gates_BTE[..., self.of_task :]
        own_BTMH = of_tasks_BEH.unflatten(1, (self.tasks, self.of_task))
        mixed_BTH = (own_BTM.unsqueeze(3) * own_BTMH).sum(2) + self.mixture(others_BTS, shared_BSH)
        if self.shared_gate is None:
            return mixed_BTH, shared_B1I
        all_BEH = torch.cat((of_tasks_BEH, shared_BSH), dim=1)
        return mixed_BTH, self.mixture(self.shared_gate(shared_B1I).softmax(dim=2), all_BEH)


class ProgressiveExtraction(nn.Module):
    """Levels of experts; towers follow. One level is customized gate control.

    Attributes:
        levels: one after the other.
    """

    def __init__(
        self,
        in_features: int,
        sizes: Sequence[int],
        *,
        levels: int,
        tasks: int,
        of_task: int,
        shared: int,
        dropout: float,
        seed: int,
        rank: int,
    ) -> None:
        super().__init__()
        self.levels = nn.ModuleList(
            Extraction(
                sizes[-1] if level else in_features,
                sizes,
                tasks=tasks,
                of_task=of_task,
                shared=shared,
                level=level,
                last=level == levels - 1,
                dropout=dropout,
                seed=seed,
                rank=rank,
            )
            for level in range(levels)
        )

    def forward(self, x_BX: torch.Tensor) -> torch.Tensor:
        """float32 (B, in_features) -> float32 (B, T, sizes[-1])."""
        of_tasks_BGI = shared_B1I = x_BX.unsqueeze(1)
        for level in self.levels:
            of_tasks_BGI, shared_B1I = level(of_tasks_BGI, shared_B1I)
        return of_tasks_BGI
