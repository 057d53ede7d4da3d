"""Optimizers of the MLPs (dense) and of the tables (sparse, fused into the backward pass), rates and clipping."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from dlrm.config.base import Fraction, NamesIfAny, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt, Section


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
# that its CPU kernel ignores.


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
    weight_decay: NonNegativeFloat = 0.0
    """L2 penalty added to the gradient."""


class SparseAdagrad(Section):
    """Adagrad (Duchi et al. 2011) of the tables, one accumulator a weight."""

    kind: Literal["adagrad"] = "adagrad"
    lr: PositiveFloat
    """Learning rate of a step with the whole global batch (loss averaged over it)."""
    eps: PositiveFloat = 1e-8
    """Added to the denominator."""


class RowwiseAdagrad(Section):
    """Adagrad of the tables with one accumulator a row, the mean of the row's squared gradients."""

    kind: Literal["rowwise_adagrad"] = "rowwise_adagrad"
    lr: PositiveFloat
    """Learning rate of a step with the whole global batch (loss averaged over it)."""
    eps: PositiveFloat = 1e-8
    """Added to the denominator."""


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


class Schedule(Section):
    """Learning rate over steps, as a factor on every rate; step counts from 1.

    Linear warm-up to the base rate over ``warmup_steps``, then the base rate, then, for the ``decay_steps`` after
    ``decay_start_step``, base * ((decay_steps - (step - decay_start_step)) / decay_steps)^2, then the minimum.
    """

    warmup_steps: NonNegativeInt = 0
    """Steps of linear warm-up; 0 starts at the base rate."""
    decay_start_step: NonNegativeInt | None = None
    """Step after which the rate decays; none: never."""
    decay_steps: PositiveInt | None = None
    """Steps of quadratic decay."""
    min_lr: NonNegativeFloat = 1e-7
    """Decay ends at this rate (absolute, for every group)."""

    @model_validator(mode="after")
    def _complete_and_ordered(self) -> Self:
        if (self.decay_start_step is None) != (self.decay_steps is None):
            raise ValueError("decay_start_step and decay_steps go together: give both or neither")
        if self.decay_start_step is not None and self.decay_start_step < self.warmup_steps:
            raise ValueError(
                f"decay_start_step ({self.decay_start_step}) lies inside the warm-up ({self.warmup_steps} steps)"
            )
        return self


class OptimConfig(Section):
    """Optimizers, their schedule and clipping."""

    dense: DenseOptimizer = Adagrad(lr=0.02)
    sparse: SparseOptimizer = RowwiseAdagrad(lr=0.05)
    lr_scale: dict[str, PositiveFloat] = Field(default_factory=dict)
    """Factor on the rate of a group: a part of the model (of dlrm: bottom_mlp, interaction, top_mlp), or a table."""
    frozen: NamesIfAny = ()
    """Groups and tables (as in lr_scale) that are not trained: their weights and, of tables, their optimizer state stay."""
    schedule: Schedule = Schedule()
    clip_norm: PositiveFloat | None = None
    """Clip the gradient of the MLPs to this L2 norm (the tables' gradients never leave the fused kernel)."""
