"""``dlrm_main.py scale``: an experiment from its file to its table."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from dlrm.config import dump_config
from dlrm.config.experiment import Experiment, ScaleConfig
from dlrm.config.jobs import LOCAL
from dlrm.errors import ConfigError
from dlrm.format import counted
from dlrm.jobs.folder import alone_in, output_folder, require_no_launcher
from dlrm.jobs.processes import Starter
from dlrm.jobs.runner import Runner
from dlrm.run.console import Console, Display
from dlrm.run.secondary import secondary, write_text
from dlrm.scaling.experiments.matrix import Point, points_of, read_experiment, selected
from dlrm.scaling.experiments.repeats import Repeat, repeats_of
from dlrm.scaling.experiments.results import CSV
from dlrm.scaling.experiments.runner import Repeats, Table, see_that_all_are_done
from dlrm.scaling.experiments.text import Progress, failure_lines, points_table, summary_table
from dlrm.scaling.report.about import DESCRIPTION
from dlrm.scaling.table import PREDICTED, Row


def run_scale(config: ScaleConfig) -> None:
    """Run what is not done yet, show and write what was found.

    Raises:
        ConfigError, SetupError: what is found before the first job.
        RepeatsFailed: some repeats failed; the others are done.
        KeyboardInterrupt, Stopped: after Ctrl-C or another signal; no job is left, and the table holds what there is.
    """
    experiment = _with_changes(read_experiment(config.experiment), config)
    points = points_of(experiment, config.experiment)
    chosen = selected(points, config.only)
    display = Console(progress=False)
    if config.dry_run:
        display.show(points_table(experiment, chosen))
        return
    _refuse(config, chosen)
    starter = Starter(config, experiment.timeout_s)
    output = config.output or f"runs/{experiment.name}.scale"
    folder = output_folder(output, DESCRIPTION, experiment.name, "experiment")
    with alone_in(folder, "scale"):
        _run(config, experiment, points, chosen, folder, starter, display)


def _run(
    config: ScaleConfig,
    experiment: Experiment,
    points: list[Point],
    chosen: Sequence[Point],
    folder: Path,
    starter: Starter,
    display: Display,
) -> None:
    repeats = repeats_of(points, experiment.repeats, folder)
    wanted = [repeat for repeat in repeats if repeat.point in chosen]
    others = _others(config, experiment, chosen, display)
    if not (config.machine or config.device) and _has_predictions(folder):
        display.say("what an earlier start predicted is left out of the table: give --machine or --device again")
    table = Table(experiment.name, points, repeats, folder, others)
    agenda = Repeats(config, table, Progress(display, config.at_once))
    agenda.look([repeat for repeat in repeats if repeat.point not in chosen])
    left = [] if config.predict_only else agenda.look(wanted, say=display)
    write_text(folder / DESCRIPTION, dump_config(experiment))
    there = f", {len(wanted) - len(left):,} of them done or failed before" if len(left) < len(wanted) else ""
    jobs = f"{counted(len(chosen), 'point')} x {counted(experiment.repeats, 'repeat')}: {counted(len(wanted), 'job')}"
    if config.predict_only:
        jobs, there = f"{counted(len(chosen), 'point')} predicted, none is run", ""
    display.say(f"{experiment.name}: {jobs}{there}; everything goes to {folder}/")
    try:
        agenda.begin(left)
        Runner[Repeat](config, starter, at_once=config.at_once).run(agenda)
    finally:
        table.write()
        display.show(summary_table(table.rows, chosen, experiment.repeats))
        for line in failure_lines([row for row in table.rows if row.point in {point.name for point in chosen}]):
            display.say(f"failed: {line}")
        display.say(f"table in {folder}/results.csv and results.parquet")
        _report(table, folder, display)
    if not config.predict_only:
        see_that_all_are_done(table, wanted)


def _others(config: ScaleConfig, experiment: Experiment, points: Sequence[Point], display: Display) -> list[Row]:
    """What is predicted of the points, before any of them runs, and what was published."""
    rows: list[Row] = []
    if config.machine or config.device:
        # Imports are here because torchrec takes seconds, and an experiment without predictions does without.
        from dlrm.run.log import capture_logs, leave_terminal

        capture_logs()
        from dlrm.scaling.experiments.predicted import Predictor

        leave_terminal()
        display.say(f"{experiment.name}: predicting {counted(len(points), 'point')}")
        predictor = Predictor(config)
        for point in points:
            rows += predictor.rows(experiment.name, point, display.say)
    if experiment.published:
        from dlrm.scaling.experiments.published import published_rows

        rows += published_rows()
    return rows


def _has_predictions(folder: Path) -> bool:
    """Whether the table that is there has rows of that kind."""
    with suppress(FileNotFoundError), (folder / CSV).open(encoding="utf-8") as file:
        return any(f'"{PREDICTED}"' in line for line in file)
    return False


def _report(table: Table, folder: Path, display: Display) -> None:
    """Write the page; a table whose page cannot be drawn is still there."""
    from dlrm.scaling.report.write import write_report

    if any(row.value is not None for row in table.rows):
        with secondary(folder / "report.html", display.say):
            write_report(folder / "results.parquet", folder)
            display.say(f"report in {folder}/report.html")


def _with_changes(experiment: Experiment, config: ScaleConfig) -> Experiment:
    changes = {"repeats": config.repeats, "timeout_s": config.timeout_s}
    return experiment.model_copy(update={name: value for name, value in changes.items() if value is not None})


def _refuse(config: ScaleConfig, points: Sequence[Point]) -> None:
    """What cannot be started.

    Raises:
        ConfigError, SetupError: what and why.
    """
    require_no_launcher("scale")
    if config.predict_only:
        return
    if config.scheduler == LOCAL and (over := [point.name for point in points if point.hosts > 1]):
        message = f"local is one host, and {over[0]} needs several: name a scheduler (slurm), or others by only=1x*"
        raise ConfigError.at("scheduler", message)
