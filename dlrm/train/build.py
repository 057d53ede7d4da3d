"""The one place where configuration becomes objects."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import torch

from dlrm.config import Config
from dlrm.config.data import CriteoTsvData, DataConfig, PlantedData
from dlrm.data.criteo_tsv import criteo_tsv_dataset
from dlrm.data.loader import BatchLoader
from dlrm.data.noise import noise_dataset
from dlrm.data.order import SampleOrder
from dlrm.data.planted import planted_dataset
from dlrm.data.source import Dataset, Source
from dlrm.distributed.world import World
from dlrm.errors import ConfigError
from dlrm.metrics.throughput import ThroughputMeter
from dlrm.model.build import build_model
from dlrm.model.dlrm import DLRM, TrainTask
from dlrm.model.init import fill_table_block
from dlrm.optim.tables import check_table_optimizer, fuse_optimizer
from dlrm.optim.training import build_optimizer, check_rate_groups
from dlrm.sharding.planner import make_plan
from dlrm.sharding.report import TablePlacement, placements
from dlrm.sharding.wrap import shard_model, split_parameters
from dlrm.train.console import Display
from dlrm.train.evaluator import Evaluator
from dlrm.train.hooks import Hook
from dlrm.train.records import Recorder
from dlrm.train.standard_hooks import LossAndSpeed, Measured, Validation
from dlrm.train.stepper import Stepper
from dlrm.train.trainer import Trainer


@dataclass(frozen=True)
class Job:
    """The parts of a training run, ready to go.

    Attributes:
        trainer: the loop with its hooks; measured: what the hooks find.
        evaluator, validation, test: for scoring.
        placements: the sharding plan for people.
        parameters: weights of the MLPs; of the tables.
    """

    trainer: Trainer
    measured: Measured
    evaluator: Evaluator
    validation: BatchLoader
    test: BatchLoader
    placements: list[TablePlacement]
    parameters: tuple[int, int]


def build_dataset(config: DataConfig) -> Dataset:
    """The three splits.

    Raises:
        DataError, ConfigError: what is wrong with the files or how they are to be split.
    """
    if isinstance(config, PlantedData):
        return planted_dataset(config)
    if isinstance(config, CriteoTsvData):
        return criteo_tsv_dataset(config)
    return noise_dataset(config)


def build_job(config: Config, dataset: Dataset, world: World, recorder: Recorder, display: Display) -> Job:
    """Every part of a training run.

    Raises:
        ConfigError, PlanError: what does not fit the data or the devices; the same on every rank.
    """
    stepper, placed, parameters = build_stepper(config, dataset, world)
    evaluation_batch_size = config.evaluation.global_batch_size or config.train.global_batch_size
    evaluator = Evaluator(stepper, world)
    validation = _evaluation_loader(dataset.validation, evaluation_batch_size, config, world)
    test = _evaluation_loader(dataset.test, evaluation_batch_size, config, world)
    measured = Measured(ThroughputMeter())
    hooks: list[Hook] = []
    trainer = Trainer(
        stepper=stepper,
        loader=_training_loader(dataset.train, config, world),
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
        )
    )
    if dataset.validation.num_samples:
        score = partial(evaluator.evaluate, validation)
        hooks.append(Validation(config.evaluation, score, measured, recorder, display))
    return Job(trainer, measured, evaluator, validation, test, placed, parameters)


def build_stepper(
    config: Config, dataset: Dataset, world: World
) -> tuple[Stepper, list[TablePlacement], tuple[int, int]]:
    """The sharded model under its train pipeline, where its tables are, and its numbers of weights."""
    schema = dataset.schema
    check_table_optimizer(config.optim.sparse, world.device)
    check_rate_groups(config.optim, [feature.name for feature in schema.sparse])
    model = build_model(config.model, schema, seed=config.run.seed, rank=world.rank)
    sizes = _table_sizes(model)
    fuse_optimizer(model.tables, config.optim)
    parameters = _count_parameters(model)
    task = TrainTask(model)
    plan = make_plan(
        task,
        config=config.sharding,
        optimizer=config.optim.sparse,
        schema=schema,
        world=world,
        rank_batch_size=config.train.global_batch_size // world.size,
    )

    def fill_block(table: str, block_RC: torch.Tensor, first_row: int, first_column: int) -> None:
        rows, dim = sizes[table]
        fill_table_block(
            block_RC,
            config.run.seed,
            table,
            rows=rows,
            dim=dim,
            row_start=first_row,
            col_start=first_column,
            scale=config.model.embedding_init_scale,
        )

    sharded = shard_model(task, plan=plan, world=world, fill_block=fill_block)
    mlps, replicated_tables = split_parameters(sharded, plan)
    optimizer = build_optimizer(
        config.optim, fused=sharded.fused_optimizer, mlps=mlps, data_parallel_tables=replicated_tables
    )
    stepper = Stepper(sharded, optimizer, world.device, config.train.pipeline)
    return stepper, placements(plan, sizes, config.optim.sparse, world.size), parameters


def _training_loader(source: Source, config: Config, world: World) -> BatchLoader:
    order = SampleOrder(
        source.num_samples,
        global_batch_size=config.train.global_batch_size,
        seed=config.run.seed,
        shuffle=config.train.shuffle,
        drop_last=config.train.drop_last,
    )
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
    )


def _table_sizes(model: DLRM) -> dict[str, tuple[int, int]]:
    return {table.name: (table.num_embeddings, table.embedding_dim) for table in model.tables.embedding_bag_configs()}


def _count_parameters(model: DLRM) -> tuple[int, int]:
    """Weights outside of the tables, and in them."""
    in_tables = sum(parameter.numel() for parameter in model.tables.parameters())
    return sum(parameter.numel() for parameter in model.parameters()) - in_tables, in_tables
