"""``dlrm_main.py import-flags``: from the words of a command line to a configuration on standard output."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace

from dlrm.config import load_config
from dlrm.config.moving import ImportFlagsConfig, OtherTrainer
from dlrm.errors import ConfigError, ConfigProblem
from dlrm.moving.command_line import launch_of
from dlrm.moving.document import document
from dlrm.moving.flags import Flag, read_flags
from dlrm.moving.lines import Command, Line, Setting
from dlrm.moving.refusals import refusals
from dlrm.moving.table import FLAGS, REMOVED
from dlrm.moving.to_training import ALWAYS


def run_import_flags(config: ImportFlagsConfig) -> None:
    """Print the configuration.

    Raises:
        ConfigError: every flag that the other trainer refuses or that has no counterpart here.
    """
    print(configuration_of(config), end="")  # noqa: T201


def configuration_of(config: ImportFlagsConfig) -> str:
    """The YAML of a command line; see :func:`run_import_flags`."""
    launch = launch_of(config.command_line, config.ranks)
    values = read_flags(launch.words, FLAGS, REMOVED)
    trainer = _trainer(config, [flag for flag in FLAGS if flag.name in values])
    command = Command({flag.name: flag.default for flag in FLAGS} | values, frozenset(values), launch.ranks, trainer)
    if problems := list(refusals(command)):
        raise ConfigError(problems)
    lines: list[Line] = [*(line for flag in FLAGS for line in flag.write(command)), *ALWAYS]
    _check(lines)
    return document(lines, command, launch)


def _trainer(config: ImportFlagsConfig, given: Sequence[Flag]) -> OtherTrainer:
    """The trainer that has all flags that were given.

    Raises:
        ConfigError: neither has, or it is not the one that was named.
    """
    only: dict[OtherTrainer, list[str]] = {"facebookresearch": [], "mlperf": []}
    for flag in given:
        if flag.trainer is not None:
            only[flag.trainer].append(f"--{flag.name}")
    ours, theirs = only["facebookresearch"], only["mlperf"]
    if ours and theirs:
        message = f"is a flag of MLPerf's trainer alone, {ours[0]} of facebookresearch's: no trainer takes both"
        raise ConfigError.at(theirs[0], message)
    found: OtherTrainer = "mlperf" if theirs else "facebookresearch"
    if config.trainer == "auto":
        return found
    other: OtherTrainer = "facebookresearch" if config.trainer == "mlperf" else "mlperf"
    if only[other]:
        raise ConfigError.at(only[other][0], f"is unknown to {config.trainer}'s trainer: leave out --trainer")
    return config.trainer


def _check(lines: Sequence[Line]) -> None:
    """See that the settings load.

    Raises:
        ConfigError: what this trainer does not take, with the flags that it comes from.
    """
    settings = [line for line in lines if isinstance(line, Setting)]
    try:
        load_config(arguments=[f"--{line.path}={json.dumps(line.value)}" for line in settings])
    except ConfigError as error:
        raise ConfigError([_of_flags(problem, settings) for problem in error.problems]) from None


def _of_flags(problem: ConfigProblem, settings: Sequence[Setting]) -> ConfigProblem:
    path = problem.key.partition("[")[0]
    sources = dict.fromkeys(line.source for line in settings if f"{line.path}.".startswith(f"{path}."))
    return replace(problem, origin=", ".join(sources) if len(sources) <= 2 else "")
