"""One training run from configuration to summary."""

from __future__ import annotations

import io
import time
from functools import partial
from pathlib import Path
from typing import Any

import rich.console

from dlrm import activity
from dlrm.config import Config
from dlrm.config.checkpoint import NEWEST, NO_CHECKPOINT
from dlrm.config.describe import to_plain
from dlrm.config.run import LoggingConfig
from dlrm.data.build import build_dataset
from dlrm.data.loader import BatchLoader
from dlrm.data.source import Dataset
from dlrm.diagnose.job import preflight_lines
from dlrm.distributed.collectives import from_rank_0, together
from dlrm.distributed.world import World, joined_world
from dlrm.format import escaped
from dlrm.memory import Bytes, MemoryAccount, expected
from dlrm.metrics.memory import PeakMemory, peak_memory
from dlrm.metrics.tasks import Results
from dlrm.optim.schedule import rate_lines
from dlrm.run import heartbeat
from dlrm.run.console import Console, Display, Silent, memory_table, plan_table
from dlrm.run.folder import RunFolder, is_restarted, open_run_folder
from dlrm.run.log import leave_terminal, open_log
from dlrm.run.mlperf import MlperfLog, check_mlperf
from dlrm.run.recorder import NoRecorder, Recorder, RunRecorder, import_tensorboard
from dlrm.run.results import days_of, record_results, result_lines, summary_of
from dlrm.run.secondary import secondary, write_text
from dlrm.run.sinks.build import open_sinks, require_sinks
from dlrm.run.summary import leave_behind
from dlrm.sharding.groups import copies_lines
from dlrm.signals import tell_before_end
from dlrm.train.build import Job, build_job, check_options
from dlrm.train.checkpointing.resume import patience_with_storage, start_elsewhere
from dlrm.train.checkpointing.run_checkpoints import Checkpointing
from dlrm.train.checkpointing.train_state import TrainingData
from dlrm.train.checkpointing.warm_start import start_warm
from dlrm.train.engine import Engine, build_engine
from dlrm.train.growing import growing_lines
from dlrm.train.memory import model_bytes, of_most, process_bytes, scored_samples
from dlrm.train.mlperf_hook import MlperfHook
from dlrm.train.precision import precision_lines
from dlrm.train.schedule import Schedule, accumulation_lines
from dlrm.train.scores import KeptScores


def run_training(config: Config) -> dict[str, Any]:
    """Train as configured and return the summary, the same on every rank.

    Raises:
        DlrmError: what the user can mend, before the first step wherever it can be known there.
    """
    with joined_world(config.distributed) as world:
        display: Display = Console(progress=config.logging.progress) if world.is_leader else Silent()
        if world.notice:
            display.say(world.notice)
        try:
            summary = _train(config, world, display)
        finally:
            display.close()
    heartbeat.end(heartbeat.FINISHED, summary["stopped"])
    return summary


def _train(config: Config, world: World, display: Display) -> dict[str, Any]:
    began_ms = int(time.time() * 1000)
    if world.is_leader and config.logging.tensorboard:
        import_tensorboard()  # before the memory that the libraries take is measured
    if config.logging.sinks:
        from_rank_0(world.collectives, lambda: require_sinks(config.logging))
    if config.logging.mlperf:
        from_rank_0(world.collectives, check_mlperf)
    leave_terminal()  # the libraries have been imported by now
    dataset = together(world.collectives, lambda: build_dataset(config.data))
    check_options(config, dataset)
    days = tuple(day.samples for day in dataset.train.days)
    schedule = Schedule.of(config.train, seed=config.run.seed, num_samples=dataset.train.num_samples, days=days)
    process = Bytes(host=process_bytes(config, dataset, world))
    engine = build_engine(config, dataset.schema, world, scored=scored_samples(config, dataset), process=process)
    accounts = world.collectives.all_gather_object(expected())

    files = from_rank_0(world.collectives, dataset.train.fingerprint)
    data = TrainingData(dataset.train.num_samples, files, days, dataset.train.vocabularies())
    patience = patience_with_storage(config, world, display)
    find_elsewhere = partial(start_elsewhere, config, engine, data, world, patience)
    if config.warm_start.checkpoint != NO_CHECKPOINT:
        find_elsewhere = partial(start_warm, config, engine, dataset.train, world, patience)
    # Before there is a folder to leave behind; but a run that has come further need not find what it began with.
    elsewhere = None if is_restarted(config, world, patience) else find_elsewhere()
    begins = elsewhere is not None and config.resume.checkpoint != NEWEST and not elsewhere.position.step
    looked = _preflight(config, dataset, 0, world) if begins else None
    run = open_run_folder(config, world)
    open_log(run.path, world.rank, display.say)
    _beat(config.logging, run, world, schedule, display)
    checkpointing = Checkpointing(config, engine, data, schedule, run, world, display, patience)
    start = checkpointing.find_start(otherwise=lambda: elsewhere or find_elsewhere())

    recorder = _recorder(config, run.path, start.position.step, world, display)
    job = build_job(
        config,
        dataset,
        schedule,
        engine,
        world,
        recorder,
        display,
        start=start.position,
        saving=checkpointing.saving,
        mlperf=_mlperf(config, dataset, schedule, run.path, world, display, began_ms),
    )
    if world.is_leader:
        _introduce(engine, schedule, run.path, world, display, of_most(accounts))
    told = (
        *rate_lines(config),
        *accumulation_lines(config),
        *copies_lines(config.sharding, world),
        *precision_lines(config, world),
        *growing_lines(config, dataset.schema),
    )
    if start.table is not None:
        display.show(start.table)
    if looked is None:
        looked = _preflight(config, dataset, start.position.step, world)
    for line in (*told, *run.lines, *start.lines, *looked):
        display.say(line)

    with checkpointing.watched():
        reason = job.trainer.fit()
    display.close()

    if (learned := engine.learned_task_weights()) is not None:
        found = ", ".join(
            f"{escaped(task)} {weight:.4g}" for task, weight in zip(job.measured.tasks, learned, strict=True)
        )
        display.say(f"learned weights of the tasks' losses: {found}")
    test, best = _final_scores(config, job, recorder, display, run.path, world)
    memory = world.collectives.all_gather_object(peak_memory(world.device))
    summary = summarise(config, job, world, reason=reason, test=test, best=best, memory=memory, folder=run.path)
    summary["expected_memory"] = of_most(accounts).to_dict()
    summary["bad_values"] = _bad_values(job, world)
    if world.is_leader:
        leave_behind(summary, run.path, recorder, display)
    return summary


def _preflight(config: Config, dataset: Dataset, step: int, world: World) -> list[str]:
    """What rank 0 finds in the data before their first sample is trained on; the others wait for it."""
    if not config.preflight.enabled or step:
        return []
    return from_rank_0(world.collectives, lambda: preflight_lines(config, dataset))


def _beat(config: LoggingConfig, run: RunFolder, world: World, schedule: Schedule, display: Display) -> None:
    say = display.say if world.is_leader else lambda text: None  # a rank's own log has it as well
    heartbeat.begin(
        heartbeat.Beating(
            folder=run.path,
            started_s=run.started_s,
            rank=world.rank,
            ranks=world.size,
            total_steps=schedule.total_steps,
            every_s=config.heartbeat_s,
        ),
        say,
    )
    tell_before_end(lambda name: heartbeat.end(heartbeat.ENDED, f"stopped by {name}", signal=name))


def _mlperf(
    config: Config, dataset: Dataset, schedule: Schedule, folder: Path, world: World, display: Display, began_ms: int
) -> MlperfHook | None:
    if not (config.logging.mlperf and world.is_leader):
        return None
    return MlperfHook(
        MlperfLog(folder, display.say),
        config,
        schedule,
        train_samples=dataset.train.num_samples,
        eval_samples=dataset.validation.num_samples,
        began_ms=began_ms,
    )


def _recorder(config: Config, folder: Path, step: int, world: World, display: Display) -> Recorder:
    if not world.is_leader:
        return NoRecorder()
    sinks = open_sinks(config, folder, display.say)
    return RunRecorder(folder, tensorboard=config.logging.tensorboard, step=step, warn=display.say, sinks=sinks)


def _introduce(
    engine: Engine, schedule: Schedule, folder: Path, world: World, display: Display, memory: MemoryAccount
) -> None:
    table = plan_table(engine.placements)
    text = rich.console.Console(file=io.StringIO(), width=110)
    text.print(table)
    text.print(memory_table(memory))
    text.print(f"planned for {engine.hardware}", soft_wrap=True)
    with secondary(folder / "plan.txt", display.say):
        write_text(folder / "plan.txt", text.file.getvalue())  # type: ignore[attr-defined]
    display.show(table)
    display.say(
        f"{world.size} rank(s) on {world.device.type}, {world.backend}; {engine.table_weights:,} weights in tables, "
        f"{engine.dense_weights:,} others; {schedule.total_steps:,} steps of {schedule.order.global_batch_size:,} samples; "
        f"files in {folder}/"
    )
    for device in (False, True):
        if told := memory.told(device=device):
            display.say(f"memory of the {'device' if device else 'host'}: {told}")
    if memory.missing:
        display.say(memory.missing)


def _final_scores(
    config: Config, job: Job, recorder: Recorder, display: Display, folder: Path, world: World
) -> tuple[Results | None, Results | None]:
    """The model's figures on the test samples and the best reachable ones, each None where there is nothing to score."""

    def scored(loader: BatchLoader, name: str) -> Results:
        if not config.evaluation.scores:
            return job.evaluator.evaluate(loader)
        path = folder / f"{name}_scores.parquet"
        tasks, weighted = loader.source.schema.tasks, config.evaluation.weighted
        with KeptScores(path, loader.order, tasks, world, display.say, weighted=weighted) as kept:
            return job.evaluator.evaluate(loader, kept)

    if config.evaluation.scores and job.validation.source.num_samples:
        scored(job.validation, "validation")
    if not config.evaluation.test or job.test.source.num_samples == 0:
        return None, None
    test = scored(job.test, "test")
    with activity.during(activity.EVALUATING):
        best = job.evaluator.best_reachable(job.test)
    record_results(recorder, "test", job.trainer.position.step, test, best)
    for text in result_lines(test):
        display.say(f"step {job.trainer.position.step}: test {text}")
    if line := job.measured.base_rate.evaluated("test", job.trainer.position.step, test, last=True):
        display.say(line)
    return test, best


def _bad_values(job: Job, world: World) -> dict[str, dict[str, int]]:
    """By split and column how many bad values were let pass: in all epochs of training, in the last evaluation."""
    found = {}
    for split, loader in (("train", job.training), ("validation", job.validation), ("test", job.test)):
        found[split] = loader.bad_values.summed(world.collectives)
    return {split: counts for split, counts in found.items() if counts}


def summarise(
    config: Config,
    job: Job,
    world: World,
    *,
    reason: str,
    test: Results | None,
    best: Results | None,
    memory: list[PeakMemory],
    folder: Path,
) -> dict[str, Any]:
    """The contents of summary.json."""
    overall = job.measured.throughput.overall()
    position = job.trainer.position
    summary: dict[str, Any] = {
        "name": config.run.name,
        "folder": str(folder),
        "stopped": reason,
        "ranks": world.size,
        "device": world.device.type,
        "epochs": position.epoch,
        "steps": position.step,
        "samples": position.samples,
        "training_time_s": overall.elapsed_s,
        "samples_per_s": overall.samples_per_s,
        "resident_gib": max(peak.resident_gib for peak in memory),
        "device_gib": max((peak.device_reserved_gib or 0.0 for peak in memory), default=0.0) or None,
        "dense_weights": job.engine.dense_weights,
        "table_weights": job.engine.table_weights,
        "model_bytes": model_bytes(
            config.model, job.engine.lookups, job.engine.optimizer.tables, job.engine.dense_weights
        ),
        "precision": to_plain(config.precision),
        "train": {"loss": job.measured.last_loss},
        "worse_than_base_rate": worse.to_dict() if (worse := job.measured.base_rate.found) else None,
        **({"days": days_of(job.measured.days)} if job.measured.days else {}),
        **summary_of(validation=job.measured.validation, test=test, best=best),
    }
    if (learned := job.engine.learned_task_weights()) is not None:
        summary["task_weights"] = dict(zip(job.measured.tasks, learned, strict=True))
    return summary
