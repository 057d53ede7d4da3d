"""Training some steps and taking their time, once as they are and once under the profiler."""

from __future__ import annotations

import itertools
import os
import time
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

from dlrm.config import Config
from dlrm.config.benchmark import Part
from dlrm.data.batch import Batch
from dlrm.data.loader import BatchLoader
from dlrm.data.source import Source
from dlrm.distributed.world import World
from dlrm.run.console import Silent
from dlrm.run.recorder import NoRecorder
from dlrm.run.secondary import Warn, secondary
from dlrm.scaling.benchmark.ablation import exchange, leave_out
from dlrm.scaling.benchmark.collectives import counted, named_waits
from dlrm.scaling.benchmark.regions import NamedHooks, named_parts
from dlrm.scaling.benchmark.stages import Timeline, events_of, timeline
from dlrm.scaling.benchmark.trace import write_trace
from dlrm.scaling.work import Product, products_of
from dlrm.train.build import build_loader, build_loss_and_speed
from dlrm.train.engine import Engine
from dlrm.train.hooks import Hook
from dlrm.train.precision import DTYPES
from dlrm.train.schedule import BEGINNING, Position, Schedule
from dlrm.train.standard_hooks import AverageWeights, ShowActivity
from dlrm.train.stepper import StepOutput
from dlrm.train.trainer import Trainer

# Neither are like the other steps of a pass, and none counts:
FILLING = 3  # until the train pipeline is full, and what is read ahead has settled
DRAINING = 3  # at its end, in which the pipeline takes no batch any more
_ENOUGH_EPOCHS = 2**40
_REPEATED_BATCHES = 8


@dataclass(frozen=True)
class Pass:
    """Steps that were timed on this rank.

    Attributes:
        step_s: seconds of each step.
        samples: of all of them, over all ranks.
    """

    step_s: list[float]
    samples: int


class Training:
    """The training of a configuration, some steps at a time, as ``train`` would do it but for evaluations and saves.

    Args:
        config: of the training.
        source: its samples.
        engine: trains.
        world: the ranks.
        without: what is left out.
    """

    def __init__(
        self, config: Config, source: Source, engine: Engine, world: World, *, without: Collection[Part] = ()
    ) -> None:
        leave_out(without, engine)
        self._without = without
        self._engine = engine
        self._dense = DTYPES[config.precision.dense]
        self._device = world.device
        days = [day.samples for day in source.days]
        schedule = Schedule.of(config.train, seed=config.run.seed, num_samples=source.num_samples, days=days)
        self._order = schedule.order
        loader = build_loader(
            config.train, world, source, self._order, accumulation_steps=config.train.accumulation_steps
        )
        self._reader = loader
        self._micro_batches = config.train.accumulation_steps
        self.loader: BatchLoader | RepeatedBatches = RepeatedBatches(loader) if "data" in without else loader
        _, loss_and_speed = build_loss_and_speed(config, loader, world, NoRecorder(), Silent(), total_steps=0)
        self._hooks = [ShowActivity(), loss_and_speed, AverageWeights(engine.average)]
        self._position = BEGINNING

    def warm_up(self, steps: int) -> tuple[list[Product], dict[str, float]]:
        """Train some steps.

        Returns:
            The matrix products of one of them, on this rank, and the bytes that it sends to others in one, by collective.
        """
        forwards: list[None] = []  # not as many a step where the last one of an epoch has fewer micro-batches
        counting = self._engine.model.register_forward_pre_hook(lambda *_: forwards.append(None))
        before = self._position.step
        with products_of(self._engine.model, self._dense) as found, counted(self._engine.model) as sent:
            self._pass(steps, [*self._hooks])
        counting.remove()
        products = found[: len(found) // len(forwards) * self._micro_batches]
        return products, sent.a_step(self._position.step - before)

    def first_batch(self) -> Batch:
        """The first global batch, as far as it is this rank's."""
        return self._reader.batch(0, 0)

    def run(self, steps: int) -> Pass:
        """Train ``steps`` after those that fill the pipeline, and take the time of each."""
        return self._pass(steps, [*self._hooks])

    def run_profiled(self, steps: int, trace: Path | None, warn: Warn) -> tuple[Pass, Timeline]:
        """The same under the profiler.

        Args:
            steps: to time.
            trace: file for a trace (:mod:`dlrm.scaling.benchmark.trace`), if one is wanted.
            warn: is told where it cannot be written.
        """
        os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # or else it tells the terminal that it starts and stops
        kinds = [ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * (self._device.type == "cuda")
        with named_parts(self._engine), named_waits(), profile(activities=kinds) as profiler:
            found = self._pass(steps, [NamedHooks(self._hooks)])
        line = timeline(*events_of(profiler))
        if trace is not None:
            with secondary(trace, warn):  # or else the other ranks would wait for this one
                write_trace(profiler, line, trace)
        line.ends_us = line.ends_us[FILLING - 1 : FILLING + steps]
        return found, line

    def _pass(self, steps: int, hooks: list[Hook]) -> Pass:
        clock = _Clock(self._device)
        last = self._position.step + FILLING + steps + DRAINING
        schedule = Schedule(self._order, _ENOUGH_EPOCHS, max_steps=last)
        trainer = Trainer(self._engine.stepper, self.loader, schedule, [*hooks, clock], self._position)  # type: ignore[arg-type]
        with exchange(left_out="exchange" in self._without):
            trainer.fit()
        self._position = trainer.position
        marks = clock.marks_s()[FILLING - 1 : FILLING + steps]
        samples = [position.samples for position in clock.positions[FILLING - 1 : FILLING + steps]]
        return Pass([after - before for before, after in itertools.pairwise(marks)], samples[-1] - samples[0])


class RepeatedBatches:
    """A loader that reads a few batches once, and then gives them again and again."""

    def __init__(self, loader: BatchLoader) -> None:
        self._loader = loader
        self.order = loader.order
        self._batches: list[list[Batch]] = []  # each whole, or its micro-batches

    def batches(self, epoch: int, start: int, stop: int) -> Iterator[Batch]:
        """As many batches as :meth:`dlrm.data.loader.BatchLoader.batches` would give."""
        if not self._batches:
            full = min(_REPEATED_BATCHES, self.order.num_batches)
            self._batches = [list(self._loader.batches(0, k, k + 1)) for k in range(full)]
        for k in range(start, stop):
            yield from self._batches[k % len(self._batches)]


class _Clock(Hook):
    """The moment at which each step ends: on the device, without waiting for it, where there is one."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._marks: list[Any] = []
        self.positions: list[Position] = []

    def on_step(self, position: Position, output: StepOutput) -> None:
        """Take the moment."""
        if self._device.type == "cuda":
            event = torch.cuda.Event(enable_timing=True)
            event.record()
            self._marks.append(event)
        else:
            self._marks.append(time.perf_counter())
        self.positions.append(position)

    def marks_s(self) -> list[float]:
        """Seconds since some moment, of each step."""
        if self._device.type != "cuda":
            return list(self._marks)
        torch.cuda.synchronize(self._device)
        return [self._marks[0].elapsed_time(mark) / 1e3 for mark in self._marks]
