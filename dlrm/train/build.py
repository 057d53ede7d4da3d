"""The one place where configuration becomes objects."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch

from dlrm.config import Config
from dlrm.config.data import PackedData, ParquetData
from dlrm.data.loader import BatchLoader
from dlrm.data.order import SampleOrder
from dlrm.data.source import Dataset, Source
from dlrm.distributed.world import World
from dlrm.errors import ConfigError, ConfigProblem
from dlrm.metrics.base_rate import BaseRateWatch
from dlrm.metrics.throughput import ThroughputMeter
from dlrm.run.console import Display
from dlrm.run.recorder import Recorder
from dlrm.train.engine import Engine
from dlrm.train.evaluator import Evaluator
from dlrm.train.hooks import Hook
from dlrm.train.standard_hooks import AverageWeights, LossAndSpeed, Measured, ResetTables, Validation
from dlrm.train.trainer import Trainer


@dataclass(frozen=True)
class Job:
    """The parts of a training run, ready to go.

    Attributes:
        trainer: the loop with its hooks; measured: what the hooks find.
        evaluator: scores; training, validation, test: the samples.
        engine: the model and what trains it.
    """

    trainer: Trainer
    measured: Measured
    evaluator: Evaluator
    training: BatchLoader
    validation: BatchLoader
    test: BatchLoader
    engine: Engine


def check_options(config: Config, dataset: Dataset) -> None:
    """See that the data have what options are about.

    Raises:
        ConfigError: they have not.
    """
    asked = {"checkpoint.best": config.checkpoint.best, "evaluation.target_auc": config.evaluation.target_auc}
    if not dataset.validation.num_samples:
        message = "needs validation samples, and the data have none; leave it out"
        problems = [ConfigProblem(key, "", message) for key, value in asked.items() if value is not None]
        if problems:
            raise ConfigError(problems)


def build_job(
    config: Config,
    dataset: Dataset,
    engine: Engine,
    world: World,
    recorder: Recorder,
    display: Display,
    saving: Callable[[Measured], Hook] = lambda measured: Hook(),
) -> Job:
    """Every part of a training run around its engine; ``saving`` makes the hook that saves what has these figures.

    Raises:
        ConfigError: what does not fit the data; the same on every rank.
    """
    evaluation_batch_size = config.evaluation.global_batch_size or config.train.global_batch_size
    evaluator = Evaluator(engine.stepper, engine.average, world, display.say)
    training = _training_loader(dataset.train, config, world)
    validation = _evaluation_loader(dataset.validation, evaluation_batch_size, config, world)
    test = _evaluation_loader(dataset.test, evaluation_batch_size, config, world)
    measured = Measured(
        ThroughputMeter(),
        loss_sums_2=torch.zeros(2, dtype=torch.float64, device=world.device),
        base_rate=BaseRateWatch(config.optim.schedule.warmup_steps),
    )
    hooks: list[Hook] = []
    trainer = Trainer(
        stepper=engine.stepper,
        loader=training,
        hooks=hooks,
        epochs=config.train.epochs,
        max_steps=config.train.max_steps,
    )
    hooks.append(
        LossAndSpeed(
            world,
            config.optim,
            measured,
            recorder,
            display,
            every_steps=config.logging.every_steps,
            total_steps=trainer.total_steps,
            bad_values=partial(training.bad_values.summed, world.collectives),
        )
    )
    hooks.append(AverageWeights(engine.average))
    if dataset.validation.num_samples:
        score = partial(evaluator.evaluate, validation)
        hooks.append(Validation(config.evaluation, score, measured, recorder, display))
    hooks.append(saving(measured))  # after what is to be saved is known, before what a resumed run does again
    if config.train.reset_tables_each_epoch:
        hooks.append(ResetTables(engine.reset_tables))
    return Job(trainer, measured, evaluator, training, validation, test, engine)


def training_order(config: Config, num_samples: int) -> SampleOrder:
    """Which samples form which global batch of which epoch."""
    return SampleOrder(
        num_samples,
        global_batch_size=config.train.global_batch_size,
        seed=config.run.seed,
        shuffle=config.train.shuffle,
        block_samples=config.train.shuffle_block_samples,
        window_blocks=config.train.shuffle_window_blocks,
        drop_last=config.train.drop_last,
    )


def _training_loader(source: Source, config: Config, world: World) -> BatchLoader:
    order = training_order(config, source.num_samples)
    if order.num_batches == 0:
        message = (
            f"leaves no batch of {config.train.global_batch_size} out of {source.num_samples} samples; set it to false"
        )
        raise ConfigError.at("train.drop_last", message)
    return _loader(source, order, config, world)


def _evaluation_loader(source: Source, global_batch_size: int, config: Config, world: World) -> BatchLoader:
    return _loader(source, SampleOrder(source.num_samples, global_batch_size=global_batch_size), config, world)


def _loader(source: Source, order: SampleOrder, config: Config, world: World) -> BatchLoader:
    return BatchLoader(
        source,
        order,
        rank=world.rank,
        world_size=world.size,
        pin_memory=world.device.type == "cuda",
        prefetch_batches=config.train.prefetch_batches,
        read_threads=config.train.read_threads,
        bad_rows=config.data.bad_rows if isinstance(config.data, PackedData | ParquetData) else "error",
    )
