"""Generated samples: planted clicks with a known best AUC, and noise for measuring speed."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from dlrm.config.base import (
    AS_LIST,
    ColumnsIfAny,
    Fraction,
    NonNegativeFloat,
    NonNegativeInt,
    Number,
    PositiveFloat,
    PositiveInt,
    Section,
    Share,
    Sizes,
    check_tasks,
)
from dlrm.config.data.paths import InputPath

# 26 tables, one of them tiny, the largest large enough for its tail to be rare: Criteo's shape at a laptop's size.
PLANTED_ROWS = (
    1000, 400, 3000, 2000, 100, 20, 1500, 200, 3, 2500, 1200, 3000, 900, 26, 1800, 2400, 10, 800, 500, 4, 2800, 18, 15,
    2200, 60, 1600,
)  # fmt: skip

Shares = Annotated[tuple[Share, ...], *AS_LIST]
Correlation = Annotated[float, Number, Field(ge=-1, le=1)]
Teacher = Literal["default", "linear", "factorisation", "cross"]


class PlantedHistory(Section):
    """A candidate and a history of items (docs/sequences.md): items of the candidate's interest count, others do not."""

    max_length: NonNegativeInt = 0
    """Most ids of a history, the fewest being none; 0: no candidate and no history."""
    items: PositiveInt = 2000
    """Items, and so rows of the table; a multiple of interests."""
    interests: PositiveInt = 100
    """Kinds of items."""
    zipf_exponent: NonNegativeFloat = 1.05
    """Skew of the items, as of the other ids."""
    share: Share = 0.6
    """Share of the variance of the true logit that is the history's."""

    @model_validator(mode="after")
    def _every_interest_has_as_many_items(self) -> Self:
        if self.items % self.interests:
            raise ValueError(f"items is {self.items}, which is no multiple of interests ({self.interests})")
        return self


class PlantedData(Section):
    """Criteo-shaped samples whose labels come from a hidden factor model, so that the best reachable AUC is known."""

    kind: Literal["planted"] = "planted"
    train_samples: PositiveInt = 800_000
    """Training samples of an epoch."""
    validation_samples: NonNegativeInt = 50_000
    """Validation samples (other samples than the training ones)."""
    test_samples: NonNegativeInt = 100_000
    """Test samples (other samples than both)."""
    num_dense: NonNegativeInt = 13
    """Dense features of a sample; 0 for none."""
    rows: Sizes = PLANTED_ROWS
    """Table size of each sparse feature."""
    zipf_exponent: NonNegativeFloat = 1.05
    """Skew of the ids: id i is drawn with probability ~ 1/(i + 1)^exponent; 0 is uniform."""
    click_rate: Share = 0.25
    """Share of positive labels."""
    tasks: ColumnsIfAny = ()
    """Names of several tasks (click, like, follow); the first is the click and decides which checkpoint is the best."""
    task_rates: Shares = (0.1,)
    """Shares of positive labels of the tasks after the first; a single number is meant for all."""
    task_correlation: Correlation = 0.6
    """Correlation of their true logits with that of the first task. What remains of each is a hidden model of its own."""
    task_missing: Fraction = 0.0
    """Share of their labels that are missing."""
    sample_weights: bool = False
    """Give each sample a weight, one of 1/8, 2/8, .. 2, each equally often, whatever the sample is."""
    signal: PositiveFloat = 1.7
    """Standard deviation of the true logit: how much of a label can be known (1.7: best reachable AUC about 0.84)."""
    teacher: Teacher = "default"
    """What the true logit is made of: default (first-order effects, bent ones of dense features, products of pairs), or
    what some models can express and others cannot: linear (first-order effects alone), factorisation (and products of all
    pairs), cross (first-order effects and products of three)."""
    history: PlantedHistory = PlantedHistory()
    rank: PositiveInt = 4
    """Width of the hidden vectors whose products the label depends on; each factor is weaker than the one before."""
    seed: NonNegativeInt = 0
    """Seed of the hidden model and of the samples (independent of run.seed)."""

    @model_validator(mode="after")
    def _one_rate_per_task(self) -> Self:
        check_tasks(self.tasks)
        if len(self.task_rates) not in (1, len(self.tasks) - 1):
            raise ValueError(
                f"task_rates has {len(self.task_rates)} entries, tasks names {max(len(self.tasks) - 1, 0)} after the "
                "first: give one or as many"
            )
        return self


class UniformIds(Section):
    """Every row of a table equally often."""

    kind: Literal["uniform"] = "uniform"


class ZipfIds(Section):
    """Id i of a table with probability ~ 1 / (i + 1)^exponent."""

    kind: Literal["zipf"] = "zipf"
    exponent: PositiveFloat = 1.05
    """Skew: 1 is Zipf's law, larger is more skewed."""


class TraceIds(Section):
    """Ids that repeat as in a recorded stream (arXiv:1906.00091, algorithms 1 and 2).

    The stream's distribution of stack distances is replayed. Generated before training and kept in memory by every rank:
    4 bytes an id, all bags counted as full.
    """

    kind: Literal["trace"] = "trace"
    path: InputPath
    """Profile written by ``dlrm_main.py synthesize``; if it has fewer columns than there are tables, they are taken in
    turn."""


class RandomData(Section):
    """Random data for measuring speed, as in arXiv:1906.00091: labels are coin flips, so AUC stays at 0.5."""

    kind: Literal["random"] = "random"
    train_samples: PositiveInt = 1_048_576
    """Training samples of an epoch."""
    validation_samples: NonNegativeInt = 0
    """Validation samples."""
    test_samples: NonNegativeInt = 0
    """Test samples."""
    num_dense: NonNegativeInt = 13
    """Dense features of a sample; 0 for none."""
    dense: Literal["uniform", "normal"] = "uniform"
    """Dense values: uniform in [0, 1), or normal with mean 0 and standard deviation 1."""
    rows: Sizes = (100_000,) * 26
    """Table size of each sparse feature."""
    hotness: Sizes = (1,)
    """Ids per sample of each sparse feature; a single number is meant for all."""
    random_hotness: bool = False
    """Draw the number of ids of each bag from 1 .. hotness instead of always taking hotness."""
    id_weights: bool = False
    """Give each id a weight, one of 1/8, 2/8, .. 2, each equally often: embeddings are multiplied by it before they are
    pooled."""
    ids: Annotated[UniformIds | ZipfIds | TraceIds, Field(discriminator="kind")] = UniformIds()
    click_rate: Share = 0.5
    """Share of positive labels."""
    tasks: ColumnsIfAny = ()
    """Names of several tasks, each with coin flips of its own."""
    seed: NonNegativeInt = 0
    """Seed of the samples (independent of run.seed)."""

    @model_validator(mode="after")
    def _one_hotness_per_table(self) -> Self:
        check_tasks(self.tasks)
        if len(self.hotness) not in (1, len(self.rows)):
            raise ValueError(f"hotness has {len(self.hotness)} entries, rows has {len(self.rows)}: give one or as many")
        return self
