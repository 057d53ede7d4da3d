"""``dlrm_main.py benchmark``: how fast a configuration trains on this machine, and where the time of a step goes.

Steps are trained twice: as they are, which gives the step's time and the throughput, and under the profiler, which gives
the breakdown (:mod:`dlrm.scaling.benchmark.stages`).
"""

from __future__ import annotations

import itertools
import logging
import socket
from pathlib import Path

import torch

from dlrm.config.benchmark import BenchmarkConfig
from dlrm.data.batch import Batch
from dlrm.data.build import build_dataset
from dlrm.data.source import Dataset
from dlrm.distributed.collectives import from_rank_0, together
from dlrm.distributed.world import World, joined_world
from dlrm.memory import Bytes, expected
from dlrm.metrics.memory import peak_memory
from dlrm.run.console import Console, Display, Silent
from dlrm.run.environment import environment
from dlrm.run.log import open_log
from dlrm.run.secondary import Warn, reason, secondary, write_json
from dlrm.scaling.benchmark.ablation import to_be_built
from dlrm.scaling.benchmark.ceilings import Ceilings, measure
from dlrm.scaling.benchmark.floors import floors
from dlrm.scaling.benchmark.passes import Training
from dlrm.scaling.benchmark.picture import draw
from dlrm.scaling.benchmark.result import Memory, ProfiledRank, Result, breakdown, sent_by_rank, slowest, step_time
from dlrm.scaling.benchmark.stages import busy_by_step, by_step, launched_by_step, working_by_step
from dlrm.scaling.benchmark.text import texts
from dlrm.scaling.folder import result_folder
from dlrm.scaling.stage_names import in_order
from dlrm.scaling.work import Product, TableUse, Work, ids_per_sample, work_per_sample
from dlrm.table_names import is_table_weight
from dlrm.train.engine import Engine, build_engine
from dlrm.train.memory import process_bytes

_LOG = logging.getLogger(__name__)

_EARLIER = ("trace_rank*.json.gz", "breakdown.png")
_OF_THE_MODEL = {"lookups", "mlps", "interaction"}
"""Without these the model is another one, and its floors tell nothing."""


def run_benchmark(config: BenchmarkConfig) -> Result:
    """Measure, show and write what was found; the same on every rank.

    Raises:
        DlrmError: what the user can mend.
    """
    with joined_world(config.distributed) as world:
        display: Display = Console(progress=False) if world.is_leader else Silent()
        if world.notice:
            display.say(world.notice)
        folder = from_rank_0(world.collectives, lambda: result_folder(config, config.output, "benchmark", _EARLIER))
        open_log(folder, world.rank, display.say)
        dataset = together(world.collectives, lambda: build_dataset(config.data))
        result = measured(config, dataset, world, folder)
        for shown in texts(result):
            display.say(shown) if isinstance(shown, str) else display.show(shown)
        if world.is_leader:
            for name, write in (("benchmark.json", write_result), ("breakdown.png", draw)):
                with secondary(folder / name, display.say):
                    write(result, folder / name)
            display.say(f"files in {folder}/")
    return result


def write_result(result: Result, path: Path) -> None:
    """Write it as JSON."""
    write_json(path, result.to_dict())


def measured(config: BenchmarkConfig, dataset: Dataset, world: World, folder: Path) -> Result:
    """Train and say what was found; the same on every rank.

    Args:
        config: of the benchmark.
        dataset: its samples.
        world: the ranks.
        folder: for traces, if they are wanted.
    """
    unsaved = config.checkpoint.model_copy(update={"enabled": False})  # needs no room for copies of the state
    built = to_be_built(config).model_copy(update={"checkpoint": unsaved})
    engine = build_engine(built, dataset.schema, world, process=Bytes(host=process_bytes(config, dataset, world)))
    training = Training(config, dataset.train, engine, world, without=config.without)
    products, sent = training.warm_up(config.warmup_steps)
    plain = training.run(config.steps)
    step_s = slowest(world.collectives.all_gather_object(plain.step_s))
    memory = None if config.without else _memory(world)  # before the profiler and the ceilings take of it
    trace = folder / f"trace_rank{world.rank}.json.gz" if config.profile else None
    notices: list[str] = []
    profiled, line = training.run_profiled(config.profiled_steps, trace, notices.append)
    mine = ProfiledRank(
        profiled.step_s, by_step(line), launched_by_step(line), busy_by_step(line), working_by_step(line)
    )
    ranks = world.collectives.all_gather_object(mine)
    order = in_order(stage for rank in ranks for step in rank.stages_us for stage in step)
    time = step_time(step_s)
    work = ceilings = reached = None
    if _OF_THE_MODEL.isdisjoint(config.without) and not products:
        notices += ["no floors: none of the model's matrix products is known"] * world.is_leader
    elif _OF_THE_MODEL.isdisjoint(config.without):
        batch = training.first_batch()
        work = _work(config, engine, batch, products, world)
        ceilings = _ceilings(engine, products, len(batch.sparse.values()), world, notices.append)
    if work and ceilings:
        reached = floors(work, ceilings, samples=config.train.global_batch_size, step_ms=time.median_ms)
    return Result(
        name=config.run.name,
        hosts=len(set(world.collectives.all_gather_object(socket.gethostname()))),
        ranks=world.size,
        device=world.device.type,
        backend=world.backend,
        threads_per_rank=torch.get_num_threads(),
        global_batch_size=config.train.global_batch_size,
        without=config.without,
        steps=len(step_s),
        samples_per_s=plain.samples / sum(step_s),
        step=time,
        memory=memory,
        bytes_sent=sent_by_rank(world.collectives.all_gather_object(sent)),
        breakdown=breakdown(ranks, order, time.median_ms / 1e3),
        work=work,
        ceilings=ceilings,
        floors=reached,
        notices=tuple(itertools.chain(*world.collectives.all_gather_object(notices))),
        environment=environment(world),
    )


def _memory(world: World) -> Memory:
    """Of the rank that takes most; the same on every rank."""
    return Memory.of(*zip(*world.collectives.all_gather_object((expected(), peak_memory(world.device))), strict=True))


def _work(config: BenchmarkConfig, engine: Engine, batch: Batch, products: list[Product], world: World) -> Work:
    """Of a sample; the same on every rank, as rank 0 has counted the ids of its batch."""
    ids = world.collectives.broadcast_object(ids_per_sample(batch, engine.lookups))
    tables = [
        TableUse(place.dim, count, pooled=table.pooled)
        for place, table, count in zip(engine.placements, engine.lookups.tables, ids, strict=True)
    ]
    return work_per_sample(
        products,
        tables,
        engine.optimizer.tables,
        samples=config.train.global_batch_size // world.size,
        ranks=world.size,
        dense_features=batch.dense.shape[1],
        dense_weights=engine.dense_weights,
        dense_state=_dense_state(engine),
        bytes_per_id=engine.lookups.schema.bytes_per_id(batch.sparse.values().element_size()),
    )


def _ceilings(
    engine: Engine, products: list[Product], ids: int, world: World, warn: Warn
) -> tuple[Ceilings, ...] | None:
    """Of each rank, measured at the same time; None on every rank where one could not, for want of memory above all."""
    dim = round(sum(place.dim for place in engine.placements) / len(engine.placements))
    mine = None
    world.collectives.barrier()
    try:
        mine = measure(
            products,
            rows=engine.table_weights // dim // world.size,
            dim=dim,
            lookups=ids,
            device=world.device,
        )
    except (MemoryError, RuntimeError) as error:  # torch's allocators raise the latter; what was measured is not lost
        _LOG.warning("ceilings could not be measured", exc_info=True)
        why = reason(error).splitlines()[0]
        warn(f"no floors: the ceilings of rank {world.rank} could not be measured ({why})")
    found = world.collectives.all_gather_object(mine)
    return None if None in found else tuple(found)


def _dense_state(engine: Engine) -> int:
    """How many numbers the optimizer keeps for each weight outside of tables."""
    states = (state for name, state in engine.optimizer.unfused_state().items() if not is_table_weight(name))
    return round(sum(tensor.numel() for state in states for tensor in state.values()) / engine.dense_weights)
