"""``dlrm_main.py benchmark``: how fast a configuration trains on this machine, and where the time of a step goes.

Steps are trained twice: as they are, which gives the step's time and the throughput, and under the profiler, which gives
the breakdown (:mod:`dlrm.scaling.stages`).
"""

from __future__ import annotations

from pathlib import Path

import torch

from dlrm.config import dump_config
from dlrm.config.benchmark import BenchmarkConfig
from dlrm.data.build import build_dataset
from dlrm.distributed.collectives import from_rank_0, together
from dlrm.distributed.world import World, joined_world
from dlrm.errors import ConfigError
from dlrm.run.console import Console, Display, Silent
from dlrm.run.environment import environment
from dlrm.run.files import is_run
from dlrm.run.log import open_log
from dlrm.run.secondary import write_json, write_text
from dlrm.scaling.passes import Training
from dlrm.scaling.result import ProfiledRank, Result, breakdown, slowest, step_time
from dlrm.scaling.stages import busy_by_step, by_step, in_order, launched_by_step
from dlrm.scaling.text import breakdown_line, breakdown_table, summary_line
from dlrm.train.engine import build_engine


def run_benchmark(config: BenchmarkConfig) -> Result:
    """Measure, show and write what was found; the same on every rank.

    Raises:
        DlrmError: what the user can mend.
    """
    with joined_world(config.distributed) as world:
        display: Display = Console(progress=False) if world.is_leader else Silent()
        if world.notice:
            display.say(world.notice)
        folder = from_rank_0(world.collectives, lambda: _folder(config))
        open_log(folder, world.rank, display.say)
        result = _measure(config, world, display)
        if world.is_leader:
            write_json(folder / "benchmark.json", result.to_dict())
            display.say(f"files in {folder}/")
    return result


def _folder(config: BenchmarkConfig) -> Path:
    """Where results go.

    Raises:
        ConfigError: it cannot be made, or is a run's.
    """
    folder = Path(config.output or f"{config.run.dir}/{config.run.name}.benchmark")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if is_run(folder) and any(folder.iterdir()):
            raise ConfigError.at("output", f"{folder} is the folder of a run: name another")
        write_text(folder / "config.yaml", dump_config(config))
    except OSError as error:
        raise ConfigError.at("output", f"{folder} cannot be made ({error.strerror}): name another folder") from None
    return folder


def _measure(config: BenchmarkConfig, world: World, display: Display) -> Result:
    dataset = together(world.collectives, lambda: build_dataset(config.data))
    engine = build_engine(config, dataset.schema, world)
    training = Training(config, dataset.train, engine, world)
    if config.warmup_steps:
        training.run(config.warmup_steps)
    plain = training.run(config.steps)
    step_s = slowest(world.collectives.all_gather_object(plain.step_s))
    profiled, line = training.run_profiled(config.profiled_steps)
    mine = ProfiledRank(profiled.step_s, by_step(line), launched_by_step(line), busy_by_step(line))
    ranks = world.collectives.all_gather_object(mine)
    order = in_order(stage for rank in ranks for step in rank.stages_us for stage in step)
    time = step_time(step_s)
    result = Result(
        name=config.run.name,
        ranks=world.size,
        device=world.device.type,
        backend=world.backend,
        threads_per_rank=torch.get_num_threads(),
        global_batch_size=config.train.global_batch_size,
        without=config.without,
        steps=len(step_s),
        samples_per_s=plain.samples / sum(step_s),
        step=time,
        breakdown=breakdown(ranks, order, time.median_ms / 1e3),
        environment=environment(world),
    )
    display.say(summary_line(result))
    display.say(breakdown_line(result.breakdown))
    display.show(breakdown_table(result.breakdown, world.size))
    return result
