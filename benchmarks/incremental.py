"""What delta checkpoints cost and save: the slow-down by following rows, bytes of 20 checkpoints, AUC after resuming.

    .venv/bin/python -m benchmarks.incremental [--parts steps,bytes,auc,large] [--save benchmarks/results/incremental.json]

- ``steps``: short segments of steps of configs/quickstart.yaml with and without following of dirty rows, in turn, on 1
  and 2 ranks: the ratio of their times, median and quartiles of the pairs; and the time inside of the hooks that follow.
- ``bytes``: configs/criteo_sample.yaml, one run for each kind of checkpoint, 20 of them evenly over it, or as near to each
  other as --near steps: bytes of all, and of the tables alone.
- ``auc``: the same run's test AUC as 8-bit deltas restore it against the exact state, and at its end when it was
  resumed from them, once at several places, and at all of them, against uninterrupted; and against runs that were resumed
  exactly, but with the MLPs' weights moved by a rounding.
- ``bytes`` and ``auc`` again for the sample as production data are trained: one epoch, a table row for every category that
  occurs, no average of the weights. (The recipe keeps 37,394 rows, so its MLPs and their state are almost half of it.)
- ``large``: the same count for tables that are most of the model (random ids by Zipf's law), as those of production are.

Where the file of Criteo's sample is not there (CRITEO_SAMPLE names it if it is elsewhere), ``bytes`` and ``auc`` are
skipped.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from benchmarks.seeds import ROOT, missing_file
from dlrm.checkpoint.delta.format import delta_record
from dlrm.checkpoint.resume import load_newest
from dlrm.checkpoint.saver import AsyncSaver
from dlrm.checkpoint.stored import Checkpoint, open_checkpoint
from dlrm.config import Config, load_config
from dlrm.data.build import build_dataset
from dlrm.data.source import Dataset
from dlrm.distributed.collectives import Collectives
from dlrm.distributed.internals import fused_lookups
from dlrm.metrics.tasks import deciding
from dlrm.run.console import Silent
from dlrm.run.recorder import NoRecorder
from dlrm.sharding.dirty_rows import DirtyRows
from dlrm.train.build import Job, build_job
from dlrm.train.checkpointing.delta_state import DeltaState
from dlrm.train.checkpointing.state import after_load, engine_tensors
from dlrm.train.engine import Engine, build_engine
from dlrm.train.hooks import Hook
from dlrm.train.schedule import Position, Schedule
from tests.support.ranks import run_ranks
from tests.support.training import this_world

CHECKPOINTS = 20
SEGMENT_STEPS = 8
EXACT, CODES = "increments, 32 bits", "increments, 8 bits"
KINDS = {"full": (1, 32), EXACT: (CHECKPOINTS, 32), CODES: (CHECKPOINTS, 8)}
SAMPLE = ROOT / "configs" / "criteo_sample.yaml"
ALL_CATEGORIES = [
    "data.categories.min_count=1",
    "train.epochs=1",
    "train.reset_tables_each_epoch=false",
    "train.average_decay=0",
]
LARGE = [
    "data={kind: random, train_samples: 1000000, ids: {kind: zipf, exponent: 1.05}}",
    "model.embedding_dim=32",
    "model.bottom_mlp=64,32",
    "model.top_mlp=64,1",
    "train.global_batch_size=1024",
    "sharding.types=table_wise",
]


class SaveAt(Hook):
    """Saves after certain steps."""

    def __init__(
        self, engine: Engine, collectives: Collectives, folder: str, *, steps: list[int], kind: str, decay: float
    ) -> None:
        full_every, bits = KINDS[kind]
        self._saver = AsyncSaver(folder, collectives)
        self._provider = DeltaState(engine, collectives, full_every=full_every, bits=bits, average_decay=decay)
        self._provider.resumed(None)
        self._steps = steps

    def next_pause(self, step: int) -> int | None:
        return next((at for at in self._steps if at > step), None)

    def on_pause(self, position: Position) -> str | None:
        if position.step in self._steps:
            self._saver.wait()
            self._provider.on_saved(self._saver.last)
            tensors, metadata = self._provider.collect()
            self._saver.save(position.step, tensors, {**metadata, "position": asdict(position)})
        return None

    def on_end(self, position: Position, reason: str) -> None:
        self._saver.wait()


def schedule_of(config: Config, dataset: Dataset) -> Schedule:
    return Schedule.of(config.train, seed=config.run.seed, num_samples=dataset.train.num_samples)


def total_steps(options: list[str]) -> int:
    config = load_config(SAMPLE, options)
    return schedule_of(config, build_dataset(config.data)).total_steps


def job_of(config: Config, steps: list[int], folder: str, kind: str, start: int = 0) -> Job:
    """A run that goes on after step ``start``."""
    world, dataset = this_world(), build_dataset(config.data)
    schedule = schedule_of(config, dataset)
    engine = build_engine(config, dataset.schema, world)
    hook = Hook()
    if steps:
        decay = config.train.average_decay
        hook = SaveAt(engine, world.collectives, folder, steps=steps, kind=kind, decay=decay)
    return build_job(
        config,
        dataset,
        schedule,
        engine,
        world,
        NoRecorder(),
        Silent(),
        start=schedule.position(start),
        saving=lambda _: hook,
    )


def evenly(total: int) -> list[int]:
    """20 steps, the last one the end."""
    return [round(total * (index + 1) / CHECKPOINTS) for index in range(CHECKPOINTS)]


# -- steps ------------------------------------------------------------------------------------------------------------


def step_times(rank: int, world_size: int, segments: int, segment_steps: int) -> tuple[list[list[float]], float]:
    """Seconds of each segment without and with following of rows, by pairs; median seconds in a step's hooks."""
    config, world = load_config(ROOT / "configs" / "quickstart.yaml", []), this_world()
    dataset = build_dataset(config.data)
    engine = build_engine(config, dataset.schema, world)
    job = build_job(config, dataset, schedule_of(config, dataset), engine, world, NoRecorder(), Silent())
    batches = list(job.training.batches(0, 0, segment_steps))  # made beforehand: generating clicks is no part of a step
    DirtyRows(engine.model)
    hooks = [(lookup, dict(lookup._forward_pre_hooks)) for lookup in fused_lookups(engine.model)]
    in_hooks: list[float] = []

    def segment(following: bool) -> float:
        for lookup, registered in hooks:
            lookup._forward_pre_hooks.clear()
            lookup._forward_pre_hooks.update(registered if following else {})
        world.collectives.barrier()
        began = time.perf_counter()
        for _ in engine.stepper.train(iter(batches), first_step=1):
            pass
        world.collectives.barrier()
        return time.perf_counter() - began

    def timed(hook: Any) -> Any:
        def call(*arguments: Any) -> None:
            began = time.perf_counter()
            hook(*arguments)
            in_hooks.append(time.perf_counter() - began)

        return call

    segment(True)
    pairs = []
    for index in range(segments):
        order = (False, True) if index % 2 else (True, False)
        times = {following: segment(following) for following in order}
        pairs.append([times[False], times[True]])
    hooks = [(lookup, {key: timed(hook) for key, hook in registered.items()}) for lookup, registered in hooks]
    for _ in range(10):
        segment(True)
    return pairs, statistics.median(in_hooks) * len(hooks)


def measure_steps(segments: int) -> dict[str, Any]:
    found = {}
    for ranks in (1, 2):
        pairs, in_hooks_s = run_ranks(step_times, ranks, segments, SEGMENT_STEPS, timeout_s=1200)[0]
        slow_downs = [following / without - 1 for without, following in pairs]
        low, median, high = statistics.quantiles(slow_downs, n=4)
        ms = statistics.median(without for without, _ in pairs) / SEGMENT_STEPS * 1000
        found[f"{ranks} rank(s)"] = {
            "pairs": len(pairs),
            "steps_a_segment": SEGMENT_STEPS,
            "step_ms_without": round(ms, 3),
            "in_hooks_ms": round(in_hooks_s * 1000, 4),
            "slow_down_median": round(median, 5),
            "slow_down_quartiles": [round(low, 5), round(high, 5)],
        }
        print(
            f"{ranks} rank(s): {ms:.2f} ms a step, following rows adds {median:.2%} ({low:.2%} .. {high:.2%}), "
            f"{in_hooks_s * 1e6:.0f} us are spent in the hooks",
            flush=True,
        )
    return found


# -- bytes ------------------------------------------------------------------------------------------------------------


def train_saving(rank: int, world_size: int, options: list[str], steps: list[int], folder: str, kind: str) -> None:
    config = load_config(None if options == LARGE else SAMPLE, options)
    config = config.model_copy(update={"train": config.train.model_copy(update={"max_steps": steps[-1]})})
    job_of(config, steps, folder, kind).trainer.fit()


def written(folder: Path) -> dict[str, Any]:
    """Bytes of the checkpoints in a folder: of files, and of the tables in them."""
    whole = tables = full = 0
    for path in sorted(folder.iterdir()):
        checkpoint = open_checkpoint(path)
        full += delta_record(checkpoint) is None
        whole += sum(file.stat().st_size for file in path.iterdir())
        for name, chunks in checkpoint.chunks.items():
            if name.startswith(("tables.", "average.tables.", "touched.")):
                tables += sum(stored.chunk.bytes for stored in chunks)
    return {"checkpoints": len(list(folder.iterdir())), "full": full, "bytes": whole, "table_bytes": tables}


def measure_bytes(options: list[str], steps: list[int]) -> dict[str, Any]:
    found: dict[str, Any] = {"steps": steps}
    for kind in KINDS:
        with tempfile.TemporaryDirectory() as folder:
            # Full ones are as large as the first.
            run_ranks(train_saving, 1, options, steps[:1] if kind == "full" else steps, folder, kind, timeout_s=1200)
            found[kind] = written(Path(folder))
    for name, value in found["full"].items():
        found["full"][name] = value * len(steps)
    for kind in KINDS:
        ratios = {name: round(found["full"][name] / found[kind][name], 3) for name in ("bytes", "table_bytes")}
        found[kind]["times_fewer"] = ratios
        print(f"{kind}: {found[kind]}", flush=True)
    return found


# -- auc --------------------------------------------------------------------------------------------------------------


def resumed_aucs(rank: int, world_size: int, options: list[str], folder: str) -> dict[str, Any]:
    """Test AUC of the whole run, and how it changes by 8 bits: as restored, and at the end of runs that were resumed.

    Beside it stands what a run makes of the smallest change there is: resumed exactly where the others are, but with
    every weight of the MLPs moved to the next float32 above or below.
    """
    config = load_config(SAMPLE, options)
    steps = evenly(total_steps(options))
    for kind in (EXACT, CODES):
        whole = job_of(config, steps, f"{folder}/{kind}", kind)
        whole.trainer.fit()
    uninterrupted = deciding(whole.evaluator.evaluate(whole.test)).auc
    restored = {kind: restored_aucs(config, f"{folder}/{kind}", steps) for kind in (EXACT, CODES)}

    stops = [steps[index] for index in (4, 9, 14, 18)]
    changes, nudged = {}, {}
    for stop in stops:
        job = resumed_job(config, f"{folder}/{CODES}", f"{folder}/until_{stop}", stop)
        changes[f"once, step {stop}"] = finished_auc(job) - uninterrupted
        job = resumed_job(config, f"{folder}/{EXACT}", f"{folder}/exact_until_{stop}", stop)
        nudge(job.engine)
        nudged[f"step {stop}"] = finished_auc(job) - uninterrupted
    source = f"{folder}/{CODES}"
    for index, stop in enumerate(stops):
        job = resumed_job(config, source, f"{folder}/chain_{index}", stop, steps)
        auc = finished_auc(job)
        source = f"{folder}/chain_{index}/run"
    changes[f"at {len(stops)} steps, one after the other"] = auc - uninterrupted
    return {
        "uninterrupted": uninterrupted,
        "as restored": {f"step {step}": restored[CODES][step] - restored[EXACT][step] for step in steps},
        "at the end": changes,
        "at the end, moved by a rounding": nudged,
    }


def restored_aucs(config: Config, source: str, steps: list[int]) -> dict[int, float]:
    """Test AUC of each checkpoint, nothing trained after it."""
    job, found = job_of(config, [], "", EXACT), {}
    with tempfile.TemporaryDirectory() as work:
        for step in steps:
            copy_checkpoint(Path(source), Path(work), step)
            restore(job, work, step)
            found[step] = deciding(job.evaluator.evaluate(job.test)).auc
    return found


def resumed_job(config: Config, source: str, work: str, stop: int, save_at: list[int] | None = None) -> Job:
    """A run that goes on from what ``source`` has up to ``stop``, which is a delta; it saves in ``work/run``."""
    own = Path(work) / "run"
    for path in Path(source).iterdir():
        if step_of(path) <= stop:
            copy_checkpoint(Path(source), own, step_of(path))
    # The first save after a resume is full: one step before the others, so that at the next stop there is a delta.
    steps = [] if save_at is None else [stop + 1, *(step for step in save_at if step > stop)]
    job = job_of(config, steps, str(own), CODES, start=stop)
    checkpoint = restore(job, own, stop)
    assert delta_record(checkpoint) is not None
    assert job.trainer.position == Position(**checkpoint.metadata["position"])
    return job


def restore(job: Job, folder: str | Path, step: int) -> Checkpoint:
    """Load the newest checkpoint, which is that of ``step``."""
    resumed = load_newest(folder, engine_tensors(job.engine), this_world().collectives)
    after_load(job.engine)
    assert resumed.checkpoint is not None
    assert resumed.checkpoint.step == step
    return resumed.checkpoint


def step_of(checkpoint: Path) -> int:
    return int(checkpoint.name.partition("_")[2])


def copy_checkpoint(source: Path, target: Path, step: int) -> None:
    name = next(path.name for path in source.iterdir() if step_of(path) == step)
    shutil.copytree(source / name, target / name)


def nudge(engine: Engine) -> None:
    """Move every weight of the MLPs to the float32 above or below it."""
    generator = torch.Generator().manual_seed(0)
    for tensor in engine_tensors(engine):
        if (
            tensor.replicated
            and not tensor.name.startswith(("tables.", "average."))
            and ".optimizer." not in tensor.name
        ):
            values = tensor.shards[0].tensor.detach()
            if values.is_floating_point():
                up = torch.rand(values.shape, generator=generator) < 0.5
                values.copy_(torch.nextafter(values, torch.where(up, torch.inf, -torch.inf)))


def finished_auc(job: Job) -> float:
    job.trainer.fit()
    auc: float = deciding(job.evaluator.evaluate(job.test)).auc
    return auc


def measure_auc(options: list[str], seeds: int) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for seed in range(seeds):
        with tempfile.TemporaryDirectory() as folder:
            found[f"seed {seed}"] = run_ranks(resumed_aucs, 1, [*options, f"run.seed={seed}"], folder, timeout_s=1200)[
                0
            ]
        print(f"seed {seed}: test AUC {found[f'seed {seed}']['uninterrupted']:.6f}", flush=True)
    kinds = ("as restored", "at the end", "at the end, moved by a rounding")
    sizes = {kind: sorted(abs(change) for its in found.values() for change in its[kind].values()) for kind in kinds}
    found["largest changes"] = {
        kind: {
            "of": len(its),
            "median": statistics.median(its),
            "over 1e-4": sum(size > 1e-4 for size in its),
            "largest": its[-1],
        }
        for kind, its in sizes.items()
    }
    for kind, its in found["largest changes"].items():
        print(f"  {kind}: {its}", flush=True)
    return found


def measured(arguments: argparse.Namespace) -> Iterator[tuple[str, Any]]:
    """Each part's name and figures."""
    parts = arguments.parts.split(",")
    options = []
    if "CRITEO_SAMPLE" in os.environ:
        options += [f"data.paths={os.environ['CRITEO_SAMPLE']}"]
    if "steps" in parts:
        yield "steps", measure_steps(arguments.pairs)
    if "large" in parts:
        yield "large", {"options": LARGE, **measure_bytes(LARGE, [10 * (index + 1) for index in range(CHECKPOINTS)])}
    if (missing := missing_file(SAMPLE, options)) is not None:
        print(f"skipped bytes and auc: {missing} is not there")
        return
    for which, its in (("", options), (", all categories", [*options, *ALL_CATEGORIES])):
        if "bytes" in parts:
            total = total_steps(its)
            near = [arguments.near * (index + 1) for index in range(CHECKPOINTS)]
            yield f"bytes, evenly over the run{which}", {"options": its, **measure_bytes(its, evenly(total))}
            yield f"bytes, every {arguments.near} step(s){which}", {"options": its, **measure_bytes(its, near)}
        if "auc" in parts:
            yield f"auc{which}", {"options": its, **measure_auc(its, arguments.seeds)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", default="steps,bytes,auc,large")
    parser.add_argument("--pairs", type=int, default=200, help="of segments with and without")
    parser.add_argument("--near", type=int, default=1, help="steps between checkpoints that are near to each other")
    parser.add_argument("--seeds", type=int, default=3, help="of runs that are resumed")
    parser.add_argument("--save", type=Path, help="write the figures as JSON; parts that are there already stay")
    arguments = parser.parse_args()
    found = {}
    if arguments.save and arguments.save.exists():
        found = json.loads(arguments.save.read_text())
    for name, figures in measured(arguments):
        found[name] = figures
        if arguments.save:
            arguments.save.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
