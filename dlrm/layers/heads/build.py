"""From configuration to the end of a model."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from dlrm.config.model import Heads, Mmoe, Ple, SharedBottom
from dlrm.layers.heads.mmoe import MultiGateExperts
from dlrm.layers.heads.ple import ProgressiveExtraction
from dlrm.layers.heads.towers import TaskTowers, TowersOfMixtures
from dlrm.layers.mlp import MLP


def build_heads(
    in_features: int,
    hidden: Sequence[int],
    config: Heads,
    *,
    tasks: int,
    dropout: float,
    seed: int,
    rank: int,
) -> tuple[nn.Module, nn.Module]:
    """The end of a model in two parts, ``body`` and ``heads``: the logits (B, T) are ``heads(body(x_BX))``.

    Each of them is a group of weights, by whatever name the model gives it. What the body returns is for the heads alone.

    - Shared bottom: the body is an MLP. Without towers it ends with a logit a task and nothing follows. With them it ends
      with its hidden layers.
    - The others: the body holds experts, each with these hidden layers, and gates; the heads are a tower a task.

    Args:
        in_features: columns of its input.
        hidden: sizes of the hidden layers, at least one where ``config.stands_on_hidden``.
        config: which kind, and its sizes.
        tasks: T.
        dropout: of the hidden layers but the last of those that towers stand on; towers have none.
        seed: of dropout.
        rank: which part of the global batch this process computes.
    """
    match config:
        case SharedBottom() if not config.tower:
            sizes = (*hidden, tasks)
            return MLP(in_features, sizes, relu_last=False, dropout=dropout, seed=seed, rank=rank), nn.Identity()
        case SharedBottom():
            shared = MLP(in_features, hidden, relu_last=True, dropout=dropout, seed=seed, rank=rank)
            return shared, TaskTowers(shared.out_features, config.tower, tasks=tasks)
        case Mmoe():
            body: nn.Module = MultiGateExperts(
                in_features, hidden, experts=config.experts, tasks=tasks, dropout=dropout, seed=seed, rank=rank
            )
        case Ple():
            body = ProgressiveExtraction(
                in_features,
                hidden,
                levels=config.levels,
                tasks=tasks,
                of_task=config.task_experts,
                shared=config.shared_experts,
                dropout=dropout,
                seed=seed,
                rank=rank,
            )
    return body, TowersOfMixtures(hidden[-1], config.tower, tasks=tasks)
