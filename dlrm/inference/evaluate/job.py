"""``dlrm_main.py evaluate`` from the request to the figures."""

from __future__ import annotations

from dataclasses import replace

from dlrm.checkpoint.reader import open_reader
from dlrm.config.evaluate import EvaluateConfig, EvaluateRequest
from dlrm.data.build import build_dataset
from dlrm.data.check import bad_values_text
from dlrm.data.loader import BatchLoader
from dlrm.data.order import SampleOrder
from dlrm.data.source import Dataset, Source
from dlrm.distributed.collectives import from_rank_0, together
from dlrm.distributed.world import World, joined_world
from dlrm.errors import ConfigError
from dlrm.format import byte_size, counted, escaped
from dlrm.inference.evaluate.columns import Column, find_columns
from dlrm.inference.evaluate.evaluation import Evaluation
from dlrm.inference.evaluate.found import Found, find, find_together
from dlrm.inference.evaluate.model import require_fit, untrained, with_possible_copies
from dlrm.inference.evaluate.progress import Progress, Watchers
from dlrm.inference.evaluate.sliced import SliceScores, slice_bytes
from dlrm.inference.evaluate.slicing import Slicing, find_slicings
from dlrm.inference.evaluate.text import texts
from dlrm.inference.evaluate.written import write
from dlrm.memory import SLICES, Bytes, expect, expected
from dlrm.run.console import Console, Display, Silent
from dlrm.run.log import leave_terminal
from dlrm.run.secondary import require_writable
from dlrm.train.build import build_loader, check_weighted
from dlrm.train.checkpointing.load import has_average, load_weights
from dlrm.train.checkpointing.vocabularies import require_same_vocabularies, uncompared_line
from dlrm.train.engine import Engine, build_engine
from dlrm.train.evaluator import Evaluator
from dlrm.train.memory import of_most, process_bytes
from dlrm.train.precision import precision_lines


def run_evaluation(request: EvaluateRequest) -> Evaluation:
    """Score, show and write what was found; the same on every rank.

    Raises:
        DlrmError: what the user can mend, before anything is scored wherever it can be known there.
    """
    with joined_world(find(request).config.distributed) as world:
        found = find_together(request, world.collectives)
        display: Display = Console(progress=found.config.logging.progress) if world.is_leader else Silent()
        try:
            for line in (world.notice, *(f"passed over: {why}" for why in found.passed_over)):
                if line:
                    display.say(line)
            evaluation = evaluate(found, world, display)
        finally:
            display.close()
        for table in texts(evaluation):
            display.show(table)
        if output := found.config.output:
            from_rank_0(world.collectives, lambda: write(evaluation, output))
            display.say(f"written to {output}")
    return evaluation


def evaluate(found: Found, world: World, display: Display) -> Evaluation:
    """Score the samples that the configuration names; collective."""
    leave_terminal()  # the libraries have been imported by now
    config, checkpoint = found.config, found.checkpoint
    dataset = together(world.collectives, lambda: build_dataset(config.data))
    source = split_of(dataset, config)
    columns = find_columns(config.slices, source.schema)

    def see_whether_it_fits() -> bool:
        require_fit(checkpoint, config, source.schema, data=source.name)
        require_same_vocabularies(checkpoint, source.vocabularies())
        check_weighted(config, source.schema)
        return config.average and has_average(open_reader(checkpoint))

    averaged = together(world.collectives, see_whether_it_fits)
    from_rank_0(world.collectives, lambda: require_writable(config.output))

    for line in uncompared_line(checkpoint, source.vocabularies()):
        display.say(line)
    engine = _build(config, dataset, source, columns, world, display)
    weights = "averaged weights" if averaged else "weights"
    display.say(f"{weights} of {escaped(checkpoint.path, 500)} (step {checkpoint.step:,})")
    _introduce(config, source, engine, world, display)
    load_weights(engine, checkpoint, world.collectives, averaged=averaged)

    loader = _loader(config, source, world)
    progress = Progress(display, loader.order, passes=1 + bool(columns), what="evaluate")
    sliced = None
    if columns:
        slicings = _slicings(columns, config, loader, progress, world)
        sliced = SliceScores(slicings, source.schema.tasks, weighted=config.evaluation.weighted)
    evaluator = Evaluator(engine.stepper, engine.average, world, display.say, weighted=config.evaluation.weighted)
    results = evaluator.evaluate(loader, Watchers([sliced, progress] if sliced else [progress]))
    bad_values = loader.bad_values.summed(world.collectives)
    if bad_values:
        display.say(f"bad values: {bad_values_text(bad_values)}")
    return Evaluation(
        checkpoint=checkpoint.path,
        step=checkpoint.step,
        averaged=averaged,
        data=source.name,
        split=config.split,
        samples=source.num_samples,
        results=results,
        best=evaluator.best_reachable(loader),
        slices=tuple(sliced.results(world.collectives)) if sliced else (),
        bad_values=bad_values,
        ranks=world.size,
        device=world.device.type,
    )


def split_of(dataset: Dataset, config: EvaluateConfig) -> Source:
    """The samples that are to be scored.

    Raises:
        ConfigError: there are none.
    """
    sources = {"train": dataset.train, "validation": dataset.validation, "test": dataset.test}
    source = sources[config.split]
    if not source.num_samples:
        others = ", ".join(name for name, other in sources.items() if other.num_samples)
        hint = f"there are some in {others}" if others else "give other data (--data.path)"
        raise ConfigError.at("split", f"is {config.split}, of which the data have no sample; {hint}")
    return source


def _build(
    config: EvaluateConfig,
    dataset: Dataset,
    source: Source,
    columns: list[Column],
    world: World,
    display: Display,
) -> Engine:
    asked, line = with_possible_copies(untrained(config), world)
    if line:
        display.say(line)
    process = Bytes(host=process_bytes(config, replace(dataset, train=source), world))
    engine = build_engine(asked, source.schema, world, scored=source.num_samples, process=process, trains=False)
    tasks = len(source.schema.tasks)
    sliced = slice_bytes(columns, tasks, values=config.slice_values, buckets=config.slice_buckets)
    expect(expected().with_part(SLICES, Bytes(host=sliced)))
    return engine


def _introduce(config: EvaluateConfig, source: Source, engine: Engine, world: World, display: Display) -> None:
    memory = of_most(world.collectives.all_gather_object(expected()))
    display.say(
        f"{counted(source.num_samples, 'sample')} of {escaped(source.name, 500)}; "
        f"{world.size} rank(s) on {world.device.type}, {world.backend}; {engine.table_weights:,} weights in tables, "
        f"{engine.dense_weights:,} others; {byte_size(memory.total.host)} of the host expected"
        + (f", {byte_size(memory.total.device)} of the device" if memory.total.device else "")
    )
    for line in (memory.missing, *precision_lines(config, world)):
        if line:
            display.say(line)


def _loader(config: EvaluateConfig, source: Source, world: World) -> BatchLoader:
    size = config.evaluation.global_batch_size or config.train.micro_batch_size
    return build_loader(config.train, world, source, SampleOrder(source.num_samples, global_batch_size=size))


def _slicings(
    columns: list[Column], config: EvaluateConfig, loader: BatchLoader, progress: Progress, world: World
) -> list[Slicing]:
    return find_slicings(
        columns,
        progress.passing(loader.batches(0, 0, loader.order.num_batches)),
        world.collectives,
        values=config.slice_values,
        buckets=config.slice_buckets,
    )
