"""Optimizers of the MLPs (dense) and of the tables (sparse, fused into the backward pass), rates and clipping."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from dlrm.config.base import (
    Fraction,
    NamesIfAny,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    Section,
    Share,
)
from dlrm.format import escaped


class Sgd(Section):
    """Stochastic gradient descent of the MLPs."""

    kind: Literal["sgd"] = "sgd"
    lr: PositiveFloat
    """Learning rate of a step with the whole global batch (loss averaged over it)."""
    momentum: Fraction = 0.0
    """Decay of the running sum of gradients."""
    weight_decay: NonNegativeFloat = 0.0
    """L2 penalty added to the gradient."""


# The tables' optimizers have no weight decay: fbgemm 1.8's SGD and Adagrad have none, and its row-wise Adagrad takes one
# that its CPU kernel ignores. ``embedding_decay`` is one that all of them do.


class SparseSgd(Section):
    """Stochastic gradient descent of the tables."""

    kind: Literal["sgd"] = "sgd"
    lr: PositiveFloat
    """Learning rate of a step with the whole global batch (loss averaged over it)."""


class Adagrad(Section):
    """Adagrad (Duchi et al. 2011) of the MLPs."""

    kind: Literal["adagrad"] = "adagrad"
    lr: PositiveFloat
    """Learning rate of a step with the whole global batch (loss averaged over it)."""
    eps: PositiveFloat = 1e-8
    """Added to the denominator."""
    initial_accumulator: NonNegativeFloat = 0.0
    """What the sums of squared gradients start from: the first steps are smaller for it."""
    weight_decay: NonNegativeFloat = 0.0
    """L2 penalty added to the gradient."""


class SparseAdagrad(Section):
    """Adagrad (Duchi et al. 2011) of the tables, one accumulator a weight."""

    kind: Literal["adagrad"] = "adagrad"
    lr: PositiveFloat
    """Learning rate of a step with the whole global batch (loss averaged over it)."""
    eps: PositiveFloat = 1e-8
    """Added to the denominator."""
    initial_accumulator: NonNegativeFloat = 0.0
    """What the sums of squared gradients start from: the first steps are smaller for it."""


class RowwiseAdagrad(Section):
    """Adagrad of the tables with one accumulator a row, the mean of the row's squared gradients."""

    kind: Literal["rowwise_adagrad"] = "rowwise_adagrad"
    lr: PositiveFloat
    """Learning rate of a step with the whole global batch (loss averaged over it)."""
    eps: PositiveFloat = 1e-8
    """Added to the denominator."""
    initial_accumulator: NonNegativeFloat = 0.0
    """What the sums of squared gradients start from: the first steps are smaller for it."""


class Adam(Section):
    """Adam (arXiv:1412.6980) of the MLPs."""

    kind: Literal["adam"] = "adam"
    lr: PositiveFloat
    """Learning rate of a step with the whole global batch (loss averaged over it)."""
    beta1: Fraction = 0.9
    """Decay of the first moment."""
    beta2: Fraction = 0.999
    """Decay of the second moment."""
    eps: PositiveFloat = 1e-8
    """Added to the denominator."""
    weight_decay: NonNegativeFloat = 0.0
    """L2 penalty added to the gradient."""


class SparseAdam(Section):
    """Adam (arXiv:1412.6980) of the rows that a batch touches; only on CUDA (fbgemm has none on CPU)."""

    kind: Literal["adam"] = "adam"
    lr: PositiveFloat
    """Learning rate of a step with the whole global batch (loss averaged over it)."""
    beta1: Fraction = 0.9
    """Decay of the first moment."""
    beta2: Fraction = 0.999
    """Decay of the second moment."""
    eps: PositiveFloat = 1e-8
    """Added to the denominator."""


class AdamW(Section):
    """Adam with decoupled weight decay (arXiv:1711.05101); MLPs only."""

    kind: Literal["adamw"] = "adamw"
    lr: PositiveFloat
    """Learning rate of a step with the whole global batch (loss averaged over it)."""
    beta1: Fraction = 0.9
    """Decay of the first moment."""
    beta2: Fraction = 0.999
    """Decay of the second moment."""
    eps: PositiveFloat = 1e-8
    """Added to the denominator."""
    weight_decay: NonNegativeFloat = 0.01
    """Decoupled weight decay."""


DenseOptimizer = Annotated[Sgd | Adagrad | Adam | AdamW, Field(discriminator="kind")]
SparseOptimizer = Annotated[SparseSgd | SparseAdagrad | RowwiseAdagrad | SparseAdam, Field(discriminator="kind")]


class _WarmUp(Section):
    warmup_steps: NonNegativeInt = 0
    """Steps of linear warm-up; 0 starts at the base rate."""
    min_lr: NonNegativeFloat = 1e-7
    """Decay ends at this rate (absolute, for every group); a base rate below it stays as it is."""


def _require_after_warm_up(start: int, warmup: int) -> None:
    if start < warmup:
        raise ValueError(f"decay_start_step ({start}) lies inside the warm-up ({warmup} steps)")


class Schedule(_WarmUp):
    """Learning rate over steps, as a factor on every rate; step counts from 1.

    Linear warm-up to the base rate over ``warmup_steps``, then the base rate, then, for the ``decay_steps`` after
    ``decay_start_step``, base * ((decay_steps - (step - decay_start_step)) / decay_steps)^2, then the minimum.
    """

    kind: Literal["quadratic"] = "quadratic"
    decay_start_step: NonNegativeInt | None = None
    """Step after which the rate decays; none: never."""
    decay_steps: PositiveInt | None = None
    """Steps of decay."""

    @model_validator(mode="after")
    def _complete_and_ordered(self) -> Self:
        if (self.decay_start_step is None) != (self.decay_steps is None):
            raise ValueError("decay_start_step and decay_steps go together: give both or neither")
        if self.decay_start_step is not None:
            _require_after_warm_up(self.decay_start_step, self.warmup_steps)
        return self


class _Decay(_WarmUp):
    # Required: whoever names such a kind wants a decay, and over a file with another kind that kind's fields are dropped.
    decay_start_step: NonNegativeInt
    """Step after which the rate decays."""
    decay_steps: PositiveInt
    """Steps of decay."""

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        _require_after_warm_up(self.decay_start_step, self.warmup_steps)
        return self


class LinearSchedule(_Decay):
    """The same with a linear decay: base * (decay_steps - (step - decay_start_step)) / decay_steps."""

    kind: Literal["linear"] = "linear"


class CosineSchedule(_Decay):
    """The same with half a cosine from the base rate to min_lr (arXiv:1608.03983, equation 5, without restarts)."""

    kind: Literal["cosine"] = "cosine"


class _RepeatedDecay(_WarmUp):
    decay_start_step: NonNegativeInt = 0
    """Step after which the rate decays."""
    every_steps: PositiveInt
    """Steps after which the rate has been multiplied by factor once more."""
    factor: Share = 0.1
    """Factor on the rate."""

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.decay_start_step:
            _require_after_warm_up(self.decay_start_step, self.warmup_steps)
        return self


class StepSchedule(_RepeatedDecay):
    """Linear warm-up, then the base rate in steps down.

    It is multiplied by ``factor`` whenever ``every_steps`` steps have passed since the later of warm-up and
    ``decay_start_step``.
    """

    kind: Literal["step"] = "step"


class ExponentialSchedule(_RepeatedDecay):
    """The same without jumps: base * factor^(steps since then / every_steps)."""

    kind: Literal["exponential"] = "exponential"


class InverseSqrtSchedule(_WarmUp):
    """Linear warm-up to the base rate, then base * sqrt(warmup_steps / step) (arXiv:1706.03762, equation 3)."""

    kind: Literal["inverse_sqrt"] = "inverse_sqrt"
    warmup_steps: PositiveInt = 1
    """Steps of linear warm-up, and those after which the rate is the base rate."""


LearningRates = Annotated[
    Schedule | LinearSchedule | CosineSchedule | StepSchedule | ExponentialSchedule | InverseSqrtSchedule,
    Field(discriminator="kind"),
]


LrRule = Literal["linear", "sqrt"]


class OptimConfig(Section):
    """Optimizers, their schedule and clipping."""

    dense: DenseOptimizer = Adagrad(lr=0.02)
    sparse: SparseOptimizer = RowwiseAdagrad(lr=0.05)
    lr_scale: dict[str, PositiveFloat] = Field(default_factory=dict)
    """Factor on the rate of a group: a part of the model (of dlrm: bottom_mlp, interaction, top_mlp), or a table."""
    lr_base_batch: PositiveInt | None = None
    """The global batch size that the rates are meant for: with another one they are scaled by lr_rule. Left out: they are
    taken as they are."""
    lr_rule: LrRule | None = None
    """With b = train.global_batch_size / lr_base_batch, both rates are multiplied by b (linear, arXiv:1706.02677) or
    sqrt(b) (sqrt, arXiv:2205.10287, for Adagrad and Adam); min_lr is not."""
    frozen: NamesIfAny = ()
    """Groups and tables (as in lr_scale) that are not trained: their weights and, of tables, their optimizer state stay."""
    schedule: LearningRates = Schedule()
    clip_norm: PositiveFloat | None = None
    """Clip the gradient of the MLPs to this L2 norm (the tables' gradients never leave the fused kernel)."""
    embedding_decay: NonNegativeFloat = 0.0
    """L2 penalty of the rows that a batch looks up: half of this times the sum of their squares, averaged over the samples,
    is added to the loss. A row decays as often as it occurs. Only for features with one id a sample at most."""

    @model_validator(mode="after")
    def _what_is_frozen_has_no_rate(self) -> Self:
        if both := [name for name in self.frozen if name in self.lr_scale]:
            raise ValueError(f"frozen names {escaped(both[0])}, whose rate lr_scale changes: drop one")
        return self

    @model_validator(mode="after")
    def _rule_has_a_base(self) -> Self:
        if (self.lr_base_batch is None) != (self.lr_rule is None):
            raise ValueError("lr_base_batch and lr_rule go together: give both or neither")
        return self
