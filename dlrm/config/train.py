"""How long and in which portions to train, and when to evaluate."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from dlrm.config.base import Advanced, Fraction, NonNegativeInt, Number, PositiveFloat, PositiveInt, Section

Pipeline = Literal["sparse_dist", "base"]
TaskWeighting = Literal["fixed", "uncertainty"]


class TrainConfig(Section):
    """The training loop."""

    global_batch_size: PositiveInt = 2048
    """Samples of one step over all ranks together; the number of ranks does not change the training."""
    accumulation_steps: PositiveInt = 1
    """Cut each global batch into so many micro-batches, which take the memory of one. Dense parameters take one step with
    the mean gradient. Tables are updated after each micro-batch: with SGD that is the training of the whole batch but for
    rows that occur in several micro-batches, with other optimizers it is another training."""
    epochs: PositiveInt = 1
    """Passes over the training samples."""
    max_steps: PositiveInt | None = None
    """Stop after this many steps in total."""
    shuffle: bool = True
    """Another seeded order of the training samples in each epoch; false: as stored."""
    by_day: bool = False
    """Train the parts of the training data (files, days) one after the other, in the order of the data, each shuffled by
    itself. Before a part is trained, all but the first, its samples are scored (progressive validation). One epoch."""
    shuffle_block_samples: NonNegativeInt = 0
    """Shuffle stored blocks of so many samples and the samples within them, instead of all samples one by one (0): reads
    stay local, which matters when the data does not fit into memory."""
    shuffle_window_blocks: Advanced[PositiveInt] = 64
    """Blocks whose samples are mixed with each other when shuffling in blocks."""
    drop_last: bool = False
    """Leave out the samples at the end of an epoch that do not fill a global batch (otherwise they are trained)."""
    reset_tables_each_epoch: bool = False
    """Put the tables and their optimizer state back to where they started after each epoch but the last, and keep the
    MLPs: what a table memorised of an epoch does not overfit the next (multi-epoch training, arXiv:2305.19531)."""
    average_decay: Fraction = 0.0
    """Evaluate an exponential moving average of all weights with this decay (0: the weights themselves). Costs a copy of
    every weight and one pass over all of them a step (and with fused_uvm_caching what is cached is written back each step),
    so it is for small tables."""
    task_weights: dict[str, PositiveFloat] = Field(default_factory=dict)
    """Weights of the tasks' losses in their sum, by name; 1 for what is left out. A missing label adds nothing, so that
    a task with few labels weighs less by itself."""
    task_weighting: TaskWeighting = "fixed"
    """fixed: by task_weights. uncertainty: the weights are learned (arXiv:1705.07115), a parameter s a task, of the group
    task_weighting: exp(-s) * loss + s / 2 for each label."""
    label_smoothing: Fraction = 0.0
    """Train on labels that are moved so far towards 1/2 (arXiv:1512.00567, section 7): scores are less extreme, and their
    mean is no longer the click rate. All metrics are of the labels as they are."""
    pipeline: Advanced[Pipeline] = "sparse_dist"
    """torchrec train pipeline: sparse_dist starts the exchange of the next batch's ids while this one is trained, base does
    one thing after the other; the training is the same."""
    all_reduce_bucket_mib: Advanced[PositiveInt | None] = None
    """Gradients of dense parameters are summed over ranks in buckets of at least so many MiB, each as soon as it is full:
    large ones are few messages, of small ones the first is early. Left out: as torch has it, one of 1, then 25. From three
    ranks on another size rounds otherwise."""
    prefetch_batches: Advanced[PositiveInt] = 4
    """Batches that are read ahead of their use."""
    read_threads: Advanced[PositiveInt] = 2
    """Threads of each rank that read them."""

    @property
    def micro_batch_size(self) -> int:
        """Samples of a forward and backward pass over all ranks together."""
        return self.global_batch_size // self.accumulation_steps

    @model_validator(mode="after")
    def _micro_batches_have_one_size(self) -> Self:
        if self.global_batch_size % self.accumulation_steps:
            raise ValueError(
                f"global_batch_size is {self.global_batch_size}, which is no multiple of accumulation_steps "
                f"({self.accumulation_steps})"
            )
        return self

    @model_validator(mode="after")
    def _days_pass_once(self) -> Self:
        if self.by_day and self.epochs > 1:
            raise ValueError(
                f"by_day goes through the days once, and epochs is {self.epochs}: in a second epoch a day would be scored "
                "that was trained on"
            )
        return self

    @model_validator(mode="after")
    def _weights_are_given_or_learned(self) -> Self:
        if self.task_weighting != "fixed" and any(weight != 1 for weight in self.task_weights.values()):
            raise ValueError(f"task_weights are given, and task_weighting {self.task_weighting} learns them: drop one")
        return self

    @model_validator(mode="after")
    def _blocks_are_for_shuffling(self) -> Self:
        if self.shuffle_block_samples and not self.shuffle:
            raise ValueError(
                f"shuffle_block_samples is {self.shuffle_block_samples} although shuffle is false: set shuffle to true, or "
                "shuffle_block_samples to 0"
            )
        return self


class PreflightConfig(Section):
    """A look at samples of all splits before a training from the beginning, by rank 0.

    It looks for what makes a training useless: constant or exchanged labels, a feature that tells the label, validation
    samples that were trained on, and others. What is found is told, and training goes on; a sample that
    training would refuse is refused. ``diagnose`` looks longer.
    """

    enabled: bool = True
    """Look at all; without, nothing is read before training."""
    samples: PositiveInt = 16_384
    """Training samples to look at, spread over all of them, and half as many of validation and test each."""
    time_limit_s: PositiveFloat = 2.0
    """Seconds after which no more samples are read; the others wait for rank 0."""


class EvaluationConfig(Section):
    """When and how to score the validation and test samples; each sample is scored exactly once."""

    global_batch_size: PositiveInt | None = None
    """Samples of one evaluation batch over all ranks together; train.global_batch_size over train.accumulation_steps if
    left out."""
    weighted: bool = False
    """Count each sample by its weight in AUC, log loss, normalised entropy, calibration and the others, as scikit-learn's
    sample_weight does (data.sample_weight or data.sample_weights); false: count each once, but those of weight 0."""
    every_steps: PositiveInt | None = None
    """Evaluate on the validation samples every so many steps, besides the end of each epoch."""
    target_auc: Annotated[float, Number, Field(gt=0.5, le=1)] | None = None
    """Stop as soon as the validation AUC, of several tasks that of the first, reaches this."""
    patience: PositiveInt | None = None
    """Stop when so many evaluations on the validation samples in a row were no better than the best before them, by
    checkpoint.best or else by auc, of several tasks that of the first. With checkpoint.best that one's state is kept."""
    test: bool = True
    """Score the test samples once, at the end."""
    scores: bool = False
    """Keep the score of every sample of the end's evaluations, in order, in the run's folder: validation_scores.parquet,
    and test_scores.parquet where test samples are scored."""
