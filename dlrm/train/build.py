"""The one place where configuration becomes objects."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch

from dlrm.config import Config
from dlrm.config.train import TrainConfig
from dlrm.data.day_order import DayOrder
from dlrm.data.loader import BatchLoader
from dlrm.data.order import SampleOrder
from dlrm.data.source import Dataset, Source
from dlrm.distributed.world import World
from dlrm.errors import ConfigError, ConfigProblem
from dlrm.format import escaped
from dlrm.metrics.base_rate import BaseRateWatch
from dlrm.metrics.tasks import Results
from dlrm.metrics.throughput import ThroughputMeter
from dlrm.optim.schedule import batch_size_factor
from dlrm.run.console import Display
from dlrm.run.recorder import Recorder
from dlrm.schema import Schema
from dlrm.train.days import ScoreNextDay
from dlrm.train.engine import Engine, task_weights
from dlrm.train.evaluator import Evaluator
from dlrm.train.hooks import Hook
from dlrm.train.mlperf_hook import MlperfHook
from dlrm.train.schedule import BEGINNING, Position, Schedule
from dlrm.train.standard_hooks import (
    AverageWeights,
    LossAndSpeed,
    Measured,
    ResetTables,
    ShowActivity,
    Validation,
)
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
    schema = dataset.schema
    features = {*schema.dense, *(feature.name for feature in schema.sparse)}
    if len(schema.tasks) > 1 and (both := features.intersection(schema.tasks)):
        message = (
            f"{escaped(min(both))} is the name of a feature, too: messages could not tell them apart, so rename one"
        )
        raise ConfigError.at("data.tasks", message)
    check_weighted(config, schema)
    if config.train.by_day and (why := dataset.train.days_are_mixed):
        raise ConfigError.at("train.by_day", f"has no days in {dataset.train.name}: {why}; preprocess without it")
    asked = {
        "checkpoint.best": config.checkpoint.best,
        "evaluation.target_auc": config.evaluation.target_auc,
        "evaluation.patience": config.evaluation.patience,
    }
    if not dataset.validation.num_samples:
        message = "needs validation samples, and the data have none; leave it out"
        problems = [ConfigProblem(key, "", message) for key, value in asked.items() if value is not None]
        if problems:
            raise ConfigError(problems)


def check_weighted(config: Config, schema: Schema) -> None:
    """See that samples have weights where figures are to be made with them.

    Raises:
        ConfigError: they have none.
    """
    if config.evaluation.weighted and not schema.sample_weight:
        message = "is true, but the data have no weights of samples: name them (data.sample_weight), or leave it out"
        raise ConfigError.at("evaluation.weighted", message)


def build_job(
    config: Config,
    dataset: Dataset,
    schedule: Schedule,
    engine: Engine,
    world: World,
    recorder: Recorder,
    display: Display,
    *,
    start: Position = BEGINNING,
    saving: Callable[[Measured], Hook] = lambda measured: Hook(),
    mlperf: MlperfHook | None = None,
) -> Job:
    """Every part of a training run around its engine.

    Args:
        config: of the run.
        dataset: its samples.
        schedule: how much of them to train.
        engine: what trains.
        world: the ranks.
        recorder: takes figures.
        display: shows them.
        start: what the engine has been trained on before.
        saving: makes the hook that saves, given the figures that go with it.
        mlperf: keeps MLPerf's log, on rank 0 of a run that has one.
    """
    evaluation_batch_size = config.evaluation.global_batch_size or config.train.micro_batch_size
    evaluator = Evaluator(engine.stepper, engine.average, world, display.say, weighted=config.evaluation.weighted)
    load = partial(build_loader, config.train, world)
    training = load(dataset.train, schedule.order, accumulation_steps=config.train.accumulation_steps)
    validation, test = (
        load(split, SampleOrder(split.num_samples, global_batch_size=evaluation_batch_size))
        for split in (dataset.validation, dataset.test)
    )
    measured, loss_and_speed = build_loss_and_speed(
        config,
        training,
        world,
        recorder,
        display,
        total_steps=schedule.total_steps,
        learned=engine.learned_task_weights,
    )
    hooks: list[Hook] = [ShowActivity(), loss_and_speed, AverageWeights(engine.average)]
    if dataset.validation.num_samples:
        score = partial(evaluator.evaluate, validation)
        scoring = score if mlperf is None else mlperf.scoring(score)
        hooks.append(_validation(config, schedule, scoring, measured, recorder, display))
    if mlperf is not None:
        hooks.append(mlperf)
    if isinstance(schedule.order, DayOrder):
        days = dataset.train.days

        def score_day(number: int) -> Results:
            first = sum(day.samples for day in days[:number])
            as_stored = SampleOrder(days[number].samples, global_batch_size=evaluation_batch_size, first=first)
            return evaluator.evaluate(load(dataset.train, as_stored))

        hooks.append(ScoreNextDay(schedule.order, days, score_day, measured, recorder, display))
    hooks.append(saving(measured))  # after what is to be saved is known, before what a resumed run does again
    if config.train.reset_tables_each_epoch:
        hooks.append(ResetTables(engine.reset_tables))
    trainer = Trainer(engine.stepper, training, schedule, hooks, start)
    return Job(trainer, measured, evaluator, training, validation, test, engine)


def _validation(
    config: Config,
    schedule: Schedule,
    score: Callable[[], Results],
    measured: Measured,
    recorder: Recorder,
    display: Display,
) -> Validation:
    every = config.evaluation.every_steps

    def planned(step: int) -> bool:
        return schedule.position(step).epoch_ended or (every is not None and step % every == 0)

    metric = config.checkpoint.best or "auc"
    return Validation(config.evaluation, score, measured, recorder, display, metric=metric, planned=planned)


def build_loss_and_speed(
    config: Config,
    training: BatchLoader,
    world: World,
    recorder: Recorder,
    display: Display,
    *,
    total_steps: int,
    learned: Callable[[], list[float] | None] = lambda: None,
) -> tuple[Measured, LossAndSpeed]:
    """What every training measures, and the hook that does."""
    tasks = training.source.schema.tasks
    measured = Measured(
        ThroughputMeter(),
        tasks=tasks,
        loss_sums_2T=torch.zeros(2, len(tasks), dtype=torch.float64, device=world.device),
        base_rate=BaseRateWatch(config.optim.schedule.warmup_steps, tasks if len(tasks) > 1 else ("",)),
    )
    return measured, LossAndSpeed(
        world,
        config.optim,
        measured,
        recorder,
        display,
        every_steps=config.logging.every_steps,
        total_steps=total_steps,
        weights=task_weights(config.train, tasks),
        learned=learned,
        rate_factor=batch_size_factor(config),
        bad_values=partial(training.bad_values.summed, world.collectives),
    )


def build_loader(
    config: TrainConfig, world: World, source: Source, order: SampleOrder, *, accumulation_steps: int = 1
) -> BatchLoader:
    """The batches of this rank."""
    return BatchLoader(
        source,
        order,
        rank=world.rank,
        world_size=world.size,
        pin_memory=world.device.type == "cuda",
        prefetch_batches=config.prefetch_batches,
        read_threads=config.read_threads,
        accumulation_steps=accumulation_steps,
    )
