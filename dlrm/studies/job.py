"""``dlrm_main.py study``: a study from its file to its report."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from dlrm.config import Config, dump_config
from dlrm.config.jobs import LOCAL
from dlrm.config.study import Study, StudyConfig
from dlrm.errors import ConfigError, DlrmError
from dlrm.format import counted, did_you_mean
from dlrm.jobs.folder import alone_in, output_folder, require_no_launcher
from dlrm.jobs.processes import Starter
from dlrm.jobs.runner import Runner
from dlrm.jobs.spec import json_mapping
from dlrm.run.console import Console, Display
from dlrm.run.secondary import secondary, write_text
from dlrm.studies.agenda import StudyAgenda, unsettled
from dlrm.studies.arms import Configured, arms_of, read_study
from dlrm.studies.baselines import Baseline, read_baselines
from dlrm.studies.course import Course
from dlrm.studies.ensemble import Ensembles
from dlrm.studies.exchange import Exchange
from dlrm.studies.kept import Choices
from dlrm.studies.outcome import Outcome, outcome_of, points_of
from dlrm.studies.runs import FINAL, TrainingRun
from dlrm.studies.searching import searcher_of
from dlrm.studies.table import DONE, write_rows
from dlrm.studies.text import choice_lines, failure_lines, plan_table, summary_table

RESOLVED, PAGE = "study.yaml", "report.html"


class StudyIncomplete(DlrmError):  # noqa: N818  # what it says is what it is
    """Some runs have failed; all others are done."""

    may_pass = True  # exit code 1: they may succeed when the study is started again


def run_study(config: StudyConfig) -> None:
    """Run what is not done yet, show and write what was found.

    Raises:
        ConfigError, SetupError: what is found before the first run.
        StudyIncomplete: some runs failed; the others are done.
        KeyboardInterrupt, Stopped: after Ctrl-C or another signal; no run is left, and the report says what there is.
    """
    study = read_study(config.study)
    if config.timeout_s is not None:
        study = study.model_copy(update={"timeout_s": config.timeout_s})
    arms = arms_of(study, config.study)
    owners = _wanted(study, config)
    display = Console(progress=False)
    if config.dry_run:
        display.show(plan_table(study, arms))
        return
    require_no_launcher("study")
    if config.scheduler == LOCAL and study.hosts > 1:
        raise ConfigError.at("scheduler", "local is one host, and hosts of the study is more: name a scheduler (slurm)")
    starter = Starter(config, study.timeout_s, "study")
    folder = output_folder(config.output or f"runs/{study.name}.study", RESOLVED, study.name, "study")
    with alone_in(folder, "study"):
        _run(config, study, arms, owners, folder, starter, display)


def _run(
    config: StudyConfig,
    study: Study,
    arms: Mapping[str, Configured],
    owners: set[str],
    folder: Path,
    starter: Starter,
    display: Display,
) -> None:
    choices = Choices(folder, study.selection_seeds, study.metric)
    courses = {
        name: Course(
            arm=arm,
            searcher=searcher_of(study.search_of(name), name, study.metric, folder),
            config=config,
            folder=folder / "arms" / name,
            threads=_threads(config, study),
            say=display.say,
            choose_kept=choices.keep,
        )
        for name, arm in arms.items()
    }
    write_text(folder / RESOLVED, dump_config(study))
    for name, course in courses.items():
        if name not in owners:
            course.only_look(choices.of(name))
    baselines = read_baselines(study.baselines, _any_config(arms)) if study.baselines else []
    display.say(f"{study.name}: {counted(len(owners), 'arm')}; everything goes to {folder}/")

    ensembles = Ensembles()

    def found() -> Outcome:
        return outcome_of(study, courses, ensembles)

    def keep() -> None:
        outcome = found()
        write_rows(outcome.rows, points_of(outcome), folder)

    wanted = {name: course for name, course in courses.items() if name in owners}
    agenda = StudyAgenda(wanted, display, metric=study.metric, at_once=config.at_once, keep=keep)
    try:
        Runner[TrainingRun](config, starter, at_once=config.at_once, command="study").run(agenda)
    finally:
        outcome = outcome_of(study, courses, ensembles, _exchange(study, display))
        write_rows(outcome.rows, points_of(outcome), folder)
        _tell(outcome, folder, display)
        with secondary(folder / PAGE, display.say):
            changed = {name: choices.changes(name) for name in arms}
            _report(outcome, courses, baselines, folder, changed)
            display.say(f"report in {folder}/{PAGE}")
    if bad := unsettled(list(wanted.values())):
        names = ", ".join(run.name for run in bad[:3]) + (f" and {len(bad) - 3:,} more" if len(bad) > 3 else "")
        raise StudyIncomplete(
            f"{counted(len(bad), 'run')} failed or did not run ({names}); started again, study goes on"
        )


def _any_config(arms: Mapping[str, Configured]) -> Config:
    """Of the first arm, for its data."""
    first = next(iter(arms.values()))
    return first.config(first.checked()[0])


def _exchange(study: Study, display: Display) -> Exchange:
    ranks = study.exchange_ranks or study.hosts * study.ranks_per_host
    return Exchange(ranks, study.ranks_per_host if study.exchange_ranks is None else ranks, display.say)


def _report(
    outcome: Outcome, courses: Mapping[str, Course], baselines: list[Baseline], folder: Path, changed: dict[str, int]
) -> None:
    """Write the page; a table whose page cannot be drawn is still there."""
    from dlrm.studies.report.write import write_report

    finals = {
        name: [run for run, status in course.runs.items() if run.purpose == FINAL and status.state == DONE]
        for name, course in courses.items()
    }
    seeds = outcome.study.final_seeds
    entries = {
        name: {run.seed: list(run.entries()) for run in runs if run.seed in seeds} for name, runs in finals.items()
    }
    some = next((run for runs in finals.values() for run in runs), None)
    environment = {} if some is None else json_mapping(some.run_folder / "environment.json")
    write_report(outcome, entries, baselines, folder, environment=environment, changed=changed)


def _tell(outcome: Outcome, folder: Path, display: Display) -> None:
    display.show(summary_table(outcome))
    for line in (*choice_lines(outcome.arms), *(f"failed: {line}" for line in failure_lines(outcome))):
        display.say(line)
    display.say(f"table in {folder}/table.csv and table.parquet")


def _wanted(study: Study, config: StudyConfig) -> set[str]:
    """The arms with configurations of their own that are to be run.

    Raises:
        ConfigError: there is no such arm.
    """
    for name in config.only:
        if name not in study.arms:
            hint = did_you_mean(name, study.arms) or f"there are {', '.join(study.arms)}"
            raise ConfigError.at("only", f"{name} is no arm of {study.name}; {hint}")
    return {study.owner_of(name) for name in config.only or study.arms}


def _threads(config: StudyConfig, study: Study) -> int:
    """Of a rank: its share of this host's cores, where several runs have them."""
    if config.scheduler != LOCAL or config.at_once == 1:
        return 0
    return max(1, len(os.sched_getaffinity(0)) // (config.at_once * study.ranks_per_host))
