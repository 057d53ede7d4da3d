"""What the words on the command line ask for."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass

from dlrm.config import Config, load_config
from dlrm.config.describe import help_text
from dlrm.errors import ConfigError, ConfigProblem

COMMANDS = {
    "train": "train as a YAML file and further options say",
    "doctor": "show versions, devices, collectives and what is wrong with them",
}


@dataclass(frozen=True)
class Request:
    """A command with its arguments.

    Attributes:
        command: one of :data:`COMMANDS`.
        config_path: YAML file, if given; options: further words, each an option of the configuration or its value.
        print_config: show the resolved configuration and do nothing else.
    """

    command: str
    config_path: str | None = None
    options: tuple[str, ...] = ()
    print_config: bool = False

    def config(self) -> Config:
        """The configuration: defaults < file < command line.

        Raises:
            ConfigError: every mistake in it.
        """
        return load_config(self.config_path, self.options)


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
    train = commands.add_parser(
        "train",
        help=COMMANDS["train"],
        description="Train as --config says; options given here replace the file's.",
        usage="dlrm_main.py train --config FILE [--section.key value | section.key=value ...]",
        epilog="options of the configuration:\n\n" + help_text(),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    train.add_argument("--config", metavar="FILE", help="YAML file; without it all options have their defaults")
    train.add_argument("--print-config", action="store_true", help="print the resolved configuration and exit")
    commands.add_parser("doctor", help=COMMANDS["doctor"], description=COMMANDS["doctor"])
    known, rest = parser.parse_known_args(words)
    if known.command == "doctor":
        if rest:
            parser.error(f"doctor takes no options, got {rest[0]}")
        return Request("doctor")
    return Request("train", known.config, tuple(rest), known.print_config)
