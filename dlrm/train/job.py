"""One training run from configuration to summary."""

from __future__ import annotations

import io
from functools import partial
from pathlib import Path
from typing import Any

import rich.console
from rich.table import Table
from rich.text import Text

from dlrm.config import Config
from dlrm.data.check import bad_values_text
from dlrm.distributed.collectives import from_rank_0, together
from dlrm.distributed.world import World, joined_world
from dlrm.metrics.binary import BinaryResult
from dlrm.metrics.memory import PeakMemory, peak_memory
from dlrm.train.base_rate import WorseThanBaseRate
from dlrm.train.build import Job, build_dataset, build_job, check_options
from dlrm.train.checkpointing.resume import patience_with_storage, start_elsewhere
from dlrm.train.checkpointing.run_checkpoints import Checkpointing
from dlrm.train.checkpointing.train_state import TrainingData
from dlrm.train.console import Console, Display, Silent, plan_table
from dlrm.train.engine import build_engine
from dlrm.train.log import open_log
from dlrm.train.records import NoRecorder, Recorder, RunRecorder
from dlrm.train.report import write_report
from dlrm.train.run_folder import is_restarted, open_run_folder, write_json
from dlrm.train.secondary import secondary, write_text
from dlrm.train.standard_hooks import result_text
from dlrm.words import printable


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
            return _train(config, world, display)
        finally:
            display.close()


def _train(config: Config, world: World, display: Display) -> dict[str, Any]:
    dataset = together(world.collectives, lambda: build_dataset(config.data))
    check_options(config, dataset)
    engine = build_engine(config, dataset.schema, world)
    data = TrainingData(dataset.train.num_samples, from_rank_0(world.collectives, dataset.train.fingerprint))
    patience = patience_with_storage(config, world, display)
    find_elsewhere = partial(start_elsewhere, config, engine, data, world, patience)
    # Before there is a folder to leave behind; but a run that has come further need not find what it began with.
    elsewhere = None if is_restarted(config, world, patience) else find_elsewhere()
    run = open_run_folder(config, world)
    folder = run.path
    open_log(folder, world.rank, display.say)
    checkpointing = Checkpointing(config, engine, data, run, world, display, patience)
    start = checkpointing.find_start(otherwise=lambda: elsewhere or find_elsewhere())
    recorder: Recorder = NoRecorder()
    if world.is_leader:
        recorder = RunRecorder(
            folder, tensorboard=config.logging.tensorboard, step=start.position.step, warn=display.say
        )
    job = build_job(config, dataset, engine, world, recorder, display, saving=checkpointing.saving)
    job.trainer.position = start.position
    if world.is_leader:
        _introduce(config, job, folder, world, display)
    for line in (*run.lines, *start.lines):
        display.say(line)
    with checkpointing.watched():
        reason = job.trainer.fit()
    display.close()
    test, best = _final_scores(config, job, recorder, display)
    memory = world.collectives.all_gather_object(peak_memory(world.device))
    summary = summarise(config, job, world, reason=reason, test=test, best=best, memory=memory, folder=folder)
    summary["bad_values"] = _bad_values(job, world)
    if world.is_leader:
        with secondary(folder / "summary.json", display.say):
            write_json(folder / "summary.json", summary)
        recorder.close()
        with secondary(folder / "report.html", display.say):
            write_report(folder, summary)
        display.show(closing_table(summary))
    return summary


def _introduce(config: Config, job: Job, folder: Path, world: World, display: Display) -> None:
    table = plan_table(job.engine.placements)
    text = rich.console.Console(file=io.StringIO(), width=110)
    text.print(table)
    with secondary(folder / "plan.txt", display.say):
        write_text(folder / "plan.txt", text.file.getvalue())  # type: ignore[attr-defined]
    display.show(table)
    engine, trainer = job.engine, job.trainer
    display.say(
        f"{world.size} rank(s) on {world.device.type}, {world.backend}; {engine.table_weights:,} weights in tables, "
        f"{engine.dense_weights:,} others; {trainer.total_steps:,} steps of {config.train.global_batch_size:,} samples; "
        f"files in {folder}/"
    )


def _final_scores(
    config: Config, job: Job, recorder: Recorder, display: Display
) -> tuple[BinaryResult | None, BinaryResult | None]:
    """The model's figures on the test samples and the best reachable ones, each None where there is nothing to score."""
    if not config.evaluation.test or job.test.source.num_samples == 0:
        return None, None
    test = job.evaluator.evaluate(job.test)
    best = job.evaluator.best_reachable(job.test)
    reachable = {} if best is None else {"best_reachable_auc": best.auc}
    recorder.record("test", job.trainer.position.step, {**test.to_dict(), **reachable})
    display.say(f"step {job.trainer.position.step}: test {result_text(test)}")
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
    test: BinaryResult | None,
    best: BinaryResult | None,
    memory: list[PeakMemory],
    folder: Path,
) -> dict[str, Any]:
    """The contents of summary.json."""
    overall = job.measured.throughput.overall()
    position = job.trainer.position
    validation = job.measured.validation
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
        "train": {"loss": job.measured.last_loss},
        "worse_than_base_rate": worse.to_dict() if (worse := job.measured.base_rate.found) else None,
        "validation": validation.to_dict() if validation else None,
        "test": test.to_dict() if test else None,
    }
    if best is not None:
        summary["best_reachable_auc"] = best.auc
        summary["best_reachable_log_loss"] = best.log_loss
    return summary


def closing_table(summary: dict[str, Any]) -> Table:
    """The summary for the terminal."""
    table = Table(title=f"{summary['name']}: {summary['stopped']}", title_justify="left", show_header=False)
    table.add_column(style="bold")
    table.add_column()
    memory = f"{summary['resident_gib']:.2f} GiB a rank"
    if summary["device_gib"]:
        memory += f", {summary['device_gib']:.2f} GiB on the device"
    seconds = summary["training_time_s"]
    table.add_row("steps", f"{summary['steps']:,} ({summary['samples']:,} samples, {summary['epochs']} epoch(s))")
    table.add_row(
        "training time", f"{seconds:.1f} s ({summary['samples_per_s']:,.0f} samples/s on {summary['ranks']} rank(s))"
    )
    table.add_row("peak memory", memory)
    for split in ("validation", "test"):
        if (result := summary[split]) is not None:
            table.add_row(split, _scores(result))
    if summary.get("best_reachable_auc") is not None:
        table.add_row(
            "best reachable (test)",
            f"AUC {summary['best_reachable_auc']:.5f}  log loss {summary['best_reachable_log_loss']:.5f}",
        )
    if (worse := summary["worse_than_base_rate"]) is not None:
        table.add_row("warning", str(WorseThanBaseRate(**worse)))
    for split, counts in summary["bad_values"].items():
        table.add_row(f"bad values ({split})", Text(bad_values_text(counts)))
    table.add_row("files", Text(printable(f"{summary['folder']}/")))
    return table


def _scores(result: dict[str, Any]) -> str:
    names = {"auc": "AUC", "log_loss": "log loss", "normalised_entropy": "NE", "calibration": "calibration"}
    figures = [f"{label} {result[name]:.5f}" for name, label in names.items() if result[name] is not None]
    return f"{'  '.join(figures)}  ({result['samples']:,} samples)"
