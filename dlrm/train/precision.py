"""The ``precision`` section of the configuration put into practice, as far as it concerns this process's arithmetic.

What ranks send each other is the business of :mod:`dlrm.sharding`: ``sharder.py`` (pooled embeddings), ``replicas.py``
(gradients of dense parameters).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

from dlrm.config import Config
from dlrm.config.describe import defaults, flatten, to_plain
from dlrm.config.precision import PrecisionConfig
from dlrm.distributed.world import World
from dlrm.errors import ConfigError
from dlrm.layers.mlp import MLP
from dlrm.models.base import Model

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def lower_dense(model: Model, config: PrecisionConfig, device: torch.device) -> None:
    """Have the parts that the model names compute under autocast; their weights stay as they are.

    The children's ``forward`` is wrapped, not the model's: the train pipelines trace that one, and none of them enters a
    child. Autocast rounds the inputs of matrix products; what else is computed follows from the types of its inputs. The
    last layer of an MLP that gives logits computes in its weights' own type: in bfloat16 logits would be multiples of
    2^-7 between 1 and 2, and many scores would be the same.

    Raises:
        ConfigError: the model names no such parts.
    """
    if config.dense == "fp32":
        return
    if not model.lower_precision:
        message = f"is {config.dense}, but {type(model).__name__} names no part for it (lower_precision in its file)"
        raise ConfigError.at("precision.dense", message)
    for part in (getattr(model, name) for name in model.lower_precision):
        part.forward = torch.autocast(device.type, DTYPES[config.dense])(part.forward)
        for last in _giving_logits(part):
            last.forward = _in_full(last.forward, last.weight.dtype, device)  # type: ignore[arg-type]


def lowered(model: Model) -> set[nn.Module]:
    """The modules of a model that :func:`lower_dense` has compute in lower precision."""
    parts = [getattr(model, name) for name in model.lower_precision]
    return {module for part in parts for module in part.modules()} - {
        last for part in parts for last in _giving_logits(part)
    }


def _giving_logits(part: nn.Module) -> list[nn.Module]:
    return [mlp.linears[-1] for mlp in part.modules() if isinstance(mlp, MLP) and mlp.gives_logits]


def _in_full(
    forward: Callable[[torch.Tensor], torch.Tensor], dtype: torch.dtype, device: torch.device
) -> Callable[[torch.Tensor], torch.Tensor]:
    def in_full(x_BH: torch.Tensor) -> torch.Tensor:
        with torch.autocast(device.type, enabled=False):
            return forward(x_BH.to(dtype))

    return in_full


def allow_tf32(config: PrecisionConfig, device: torch.device) -> None:
    """Have matrix products on CUDA round their inputs, or not, whatever the environment says."""
    if device.type == "cuda":
        torch.backends.cuda.matmul.allow_tf32 = config.tf32


def precision_lines(config: Config, world: World) -> list[str]:
    """What is not float32 in this run, and what of it has no effect here, in words; nothing of the defaults."""
    changed = flatten(to_plain(config.precision))
    standard = flatten(defaults(PrecisionConfig))
    named = [f"{name} {_word(value)}" for name, value in changed.items() if value != standard[name]]
    lines = [f"precision: {', '.join(named)}"] if named else []
    if config.precision.tf32 and world.device.type != "cuda":
        lines.append("precision.tf32 does nothing on CPU")
    exchange = config.precision.exchange
    if (exchange.forward, exchange.backward) != ("fp32", "fp32") and world.size == 1:
        lines.append("precision.exchange does nothing on one rank, which exchanges nothing")
    return lines


def _word(value: object) -> str:
    return str(value).lower()


def check_half_tables(config: Config, *, copies: int) -> None:
    """Refuse what would round tables in float16 once more than their updates do.

    Args:
        config: of the run.
        copies: of the tables.

    Raises:
        ConfigError: averages of weights, or of copies of the tables; delta checkpoints that quantise.
    """
    if config.precision.tables == "fp32":
        return
    why = "is {}, and precision.tables is fp16, in which {}; use {} or fp32 tables"
    if config.train.average_decay > 0:
        parts = f"{config.train.average_decay:g}", "an average that moves slowly would stand still", "0"
        raise ConfigError.at("train.average_decay", why.format(*parts))
    if copies > 1:
        parts = str(config.sharding.group_size), "copies of tables would be rounded when they are averaged", "one copy"
        raise ConfigError.at("sharding.group_size", why.format(*parts))
    if config.checkpoint.enabled and config.checkpoint.full_every > 1 and config.checkpoint.increment_bits == 8:
        parts = "8", "a weight has 16 bits already", "32"
        raise ConfigError.at("checkpoint.increment_bits", why.format(*parts))
