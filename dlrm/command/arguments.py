"""What the words on the command line ask for."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass

from dlrm.config import Config, load_options
from dlrm.config.base import Section
from dlrm.config.describe import help_text, options
from dlrm.config.prepare import InspectConfig, MaterializeConfig, PreprocessConfig, SynthesizeConfig
from dlrm.errors import ConfigError, ConfigProblem


@dataclass(frozen=True)
class Command:
    """A command of ``dlrm_main.py``.

    Attributes:
        purpose: what it does, for ``--help``.
        options: the sections of its configuration; None for a command without options.
        positional: the option that a first word without ``--`` or ``=`` is the value of; empty if there is none.
    """

    purpose: str
    options: type[Section] | None = None
    positional: str = ""


COMMANDS = {
    "train": Command("train as a YAML file and further options say", Config),
    "preprocess": Command("turn raw Criteo files into a packed data set; started again, it goes on", PreprocessConfig),
    "inspect": Command("show what a packed data set holds; --verify checks all of it", InspectConfig, "path"),
    "materialize": Command("write MLPerf's multi-hot files for a packed data set", MaterializeConfig, "path"),
    "synthesize": Command("profile how ids repeat in a data set; write data that repeats like it", SynthesizeConfig),
    "doctor": Command("show versions, devices, collectives and what is wrong with them"),
}


@dataclass(frozen=True)
class Request:
    """A command with its arguments.

    Attributes:
        command: one of :data:`COMMANDS`.
        config_path: YAML file, if given.
        words: further words, each an option of the configuration or its value.
        print_config: show the resolved configuration and do nothing else.
    """

    command: str
    config_path: str | None = None
    words: tuple[str, ...] = ()
    print_config: bool = False

    def config(self) -> Section:
        """The command's configuration: defaults < file < command line.

        Raises:
            ConfigError: every mistake in it.
        """
        command = COMMANDS[self.command]
        assert command.options is not None, f"{self.command} has no configuration"
        return load_options(command.options, self.config_path, self._named(command))

    def _named(self, command: Command) -> tuple[str, ...]:
        """The words with the name of the option that a word on its own is the value of."""
        if not command.positional or command.options is None:
            return self.words
        switches = {f"--{option.path}" for option in options(command.options) if option.type_name == "true|false"}
        for i, word in enumerate(self.words):
            before = self.words[i - 1] if i else "="
            alone = "=" in before or not before.startswith("--") or before in switches
            if alone and not word.startswith("--") and "=" not in word and word not in ("true", "false"):
                return (*self.words[:i], f"--{command.positional}={word}", *self.words[i + 1 :])
        return self.words


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> None:  # type: ignore[override]  # argparse would print usage, too
        raise ConfigError([ConfigProblem("", "command line", f"{message}; see --help")])


def parse(words: Sequence[str]) -> Request:
    """Read the command line; ``--help`` prints and exits.

    Raises:
        ConfigError: no or an unknown command. Options of the configuration are looked at by :meth:`Request.config`.
    """
    parser = _Parser(prog="dlrm_main.py", description="Train deep learning recommendation models on torchrec.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND", parser_class=_Parser)
    for name, command in COMMANDS.items():
        if command.options is None:
            commands.add_parser(name, help=command.purpose, description=command.purpose)
            continue
        positional = f" {command.positional.upper()}" if command.positional else ""
        described = commands.add_parser(
            name,
            help=command.purpose,
            description=f"{command.purpose[0].upper()}{command.purpose[1:]}.",
            usage=f"dlrm_main.py {name}{positional} [--config FILE] [--section.key value | section.key=value ...]",
            epilog="options of the configuration:\n\n" + help_text(command.options),
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )
        described.add_argument("--config", metavar="FILE", help="YAML file with options; those given here replace them")
        described.add_argument("--print-config", action="store_true", help="print the resolved configuration and exit")
    known, rest = parser.parse_known_args(words)
    if COMMANDS[known.command].options is None:
        if rest:
            parser.error(f"{known.command} takes no options, got {rest[0]}")
        return Request(known.command)
    return Request(known.command, known.config, tuple(rest), known.print_config)
