"""Small training runs for tests: a data set in memory and the losses that a configuration gives on it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from dlrm.config import Config, load_config
from dlrm.data.build import build_dataset
from dlrm.data.in_memory import InMemorySource
from dlrm.data.loader import BatchLoader
from dlrm.data.order import SampleOrder
from dlrm.data.source import Dataset
from dlrm.distributed.collectives import ProcessGroup
from dlrm.distributed.world import RankInfo, World
from dlrm.run.console import Silent
from dlrm.run.recorder import NoRecorder
from dlrm.schema import Schema
from dlrm.train.build import build_job
from dlrm.train.engine import build_engine
from dlrm.train.schedule import BEGINNING, Position, Schedule
from tests.support.whole_state import fill_state, gather_state

ROWS = (7, 50, 300, 40)


def tiny_source(num_samples: int, *, rows: tuple[int, ...] = ROWS, num_dense: int = 3, seed: int = 0) -> InMemorySource:
    """Random samples whose labels depend on the first table and the first dense feature."""
    generator = torch.Generator().manual_seed(seed)
    dense_BN = torch.randn(num_samples, num_dense, generator=generator)
    ids_BF = torch.stack([torch.randint(0, n, (num_samples,), generator=generator) for n in rows], dim=1)
    logits_B = dense_BN[:, 0] + (ids_BF[:, 0] % 2) * 2 - 1
    labels_B = torch.rand(num_samples, generator=generator) < logits_B.sigmoid()
    return InMemorySource(
        "tiny", Schema.numbered(num_dense, rows), dense_BN, ids_BF.to(torch.int32), labels_B[:, None].to(torch.uint8)
    )


def tiny_dataset(num_samples: int, **kwargs: Any) -> Dataset:
    """Three splits of :func:`tiny_source`."""
    train, validation, test = (tiny_source(num_samples, seed=seed, **kwargs) for seed in range(3))
    return Dataset(train, validation, test)


def this_world() -> World:
    """The world of a process that :func:`tests.support.ranks.run_ranks` started."""
    return World(
        rank_info=RankInfo.from_environment(), device=torch.device("cpu"), backend="gloo", collectives=ProcessGroup()
    )


def training_losses(rank: int, world_size: int, config: Config, num_samples: int, steps: int) -> list[float]:
    """The mean loss of each of the first ``steps`` global batches, for :func:`tests.support.ranks.run_ranks`."""
    world = this_world()
    dataset = tiny_dataset(num_samples)
    stepper = build_engine(config, dataset.schema, world).stepper
    order = SampleOrder(
        num_samples, global_batch_size=config.train.global_batch_size, seed=config.run.seed, shuffle=True
    )
    loader = BatchLoader(dataset.train, order, rank=rank, world_size=world_size)
    losses: list[float] = []
    epoch = 0
    while len(losses) < steps:
        stop = min(order.num_batches, steps - len(losses))
        for output in stepper.train(loader.batches(epoch, 0, stop), first_step=len(losses) + 1):
            loss = output.loss.double() / world_size
            world.collectives.all_reduce_sum_(loss)
            losses.append(loss.item())
        epoch += 1
    return losses


def trained(
    options: Sequence[str], steps: int, start: tuple[dict[str, torch.Tensor], Position] | None = None
) -> tuple[dict[str, torch.Tensor], Position, float]:
    """The whole job on this rank: what it ends with after so many steps in all.

    Args:
        options: of the configuration, with validation.
        steps: of training.
        start: the first two of what an earlier part returned.

    Returns:
        The whole state, the position, and the log loss of the last validation (of the task ``label``).
    """
    config = load_config(None, [*options, f"train.max_steps={steps}", "train.epochs=9"])
    world, dataset = this_world(), build_dataset(config.data)
    schedule = Schedule.of(config.train, seed=config.run.seed, num_samples=dataset.train.num_samples)
    engine = build_engine(config, dataset.schema, world)
    state, position = start or (None, BEGINNING)
    job = build_job(config, dataset, schedule, engine, world, NoRecorder(), Silent(), start=position)
    if state is not None:
        fill_state(engine, state)
    job.trainer.fit()
    assert job.trainer.position.step == steps
    assert job.measured.validation is not None
    log_loss = job.measured.validation["label"].log_loss
    assert log_loss is not None
    return gather_state(engine, world.collectives), job.trainer.position, log_loss
