"""What the words on the command line ask for."""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dlrm.config import Config, load_options
from dlrm.config.base import Section
from dlrm.config.bench_inference import BenchInferenceConfig
from dlrm.config.benchmark import REFUSED as NOT_FOR_BENCHMARK
from dlrm.config.benchmark import BenchmarkConfig
from dlrm.config.calibrate import CalibrateConfig
from dlrm.config.checkpoint_commands import (
    DiffConfig,
    ExportConfig,
    ImportConfig,
    ListConfig,
    ShowConfig,
    VerifyConfig,
)
from dlrm.config.describe import help_text, options, switches
from dlrm.config.diagnose import DiagnoseConfig
from dlrm.config.evaluate import REFUSED, EvaluateConfig, EvaluateRequest
from dlrm.config.experiment import ScaleConfig
from dlrm.config.export import ExportModelConfig, ExportRequest
from dlrm.config.layers import command_line_layer
from dlrm.config.moving import ImportFlagsConfig
from dlrm.config.plan import PlanConfig
from dlrm.config.predict import PredictConfig
from dlrm.config.prepare import InspectConfig, MaterializeConfig, PackConfig, PreprocessConfig, SynthesizeConfig
from dlrm.config.quantise import QuantiseConfig
from dlrm.config.scaling_report import ReportConfig
from dlrm.config.serve import ServeConfig
from dlrm.config.status import StatusConfig
from dlrm.config.study import StudyConfig
from dlrm.errors import ConfigError, ConfigProblem


@dataclass(frozen=True)
class Command:
    """A command of ``dlrm_main.py``.

    Attributes:
        purpose: what it does, for ``--help``.
        options: the sections of its configuration; None for a command without options.
        positional: the options that words without ``--`` or ``=`` are the values of, in order; one whose value is a list
            takes all that are left.
        from_file: whether options may be in a YAML file, ``--config FILE``.
        beside: the name of a file that is read in its place where it is not given, in the folder that the first positional
            option names, if that is given.
        foreign: the option that holds all words after ``--``, which are another program's.
        hidden: sections that cannot be given; refused: why those cannot that are passed over where a file has them.
        later: makes of the words what stands for a configuration that is known only when a file of theirs has been read.
    """

    purpose: str
    options: type[Section] | None = None
    positional: tuple[str, ...] = ()
    from_file: bool = True
    beside: str = ""
    foreign: str = ""
    hidden: tuple[str, ...] = ()
    refused: Mapping[str, str] = field(default_factory=dict)
    later: Callable[[tuple[str, ...]], Section] | None = None


GROUPS = {"checkpoint": "look at checkpoints, verify, compare and export them; import weights"}
"""First words of commands that have two."""

COMMANDS = {
    "train": Command("train as a YAML file and further options say", Config),
    "evaluate": Command(
        "score a checkpoint on a data set: AUC and other figures, of all samples and of slices of them",
        EvaluateConfig,
        ("path",),
        from_file=False,
        hidden=tuple(REFUSED),
        later=EvaluateRequest.of,
    ),
    "export": Command(
        "make a folder of a checkpoint that answers without the trainer",
        ExportModelConfig,
        ("checkpoint", "output"),
        from_file=False,
        later=ExportRequest.of,
    ),
    "predict": Command(
        "write the probabilities of all rows of files, in order; started again, it goes on",
        PredictConfig,
        ("export", "input"),
    ),
    "bench-inference": Command(
        "measure how many requests exports answer on this machine within a bound of their latency",
        BenchInferenceConfig,
        ("exports",),
    ),
    "quantise": Command("make a smaller export of one, and say what fewer bits cost", QuantiseConfig, ("export",)),
    "serve": Command("answer over HTTP what exports predict", ServeConfig, ("models",)),
    "benchmark": Command(
        "train for some steps and say how fast, and where their time goes",
        BenchmarkConfig,
        refused=NOT_FOR_BENCHMARK,
        hidden=tuple(NOT_FOR_BENCHMARK),
    ),
    "scale": Command(
        "run an experiment: each point of a matrix of configurations, so many times, as one table",
        ScaleConfig,
        ("experiment",),
        from_file=False,
    ),
    "study": Command(
        "compare configurations: search on validation samples, train what is chosen anew, score test samples once",
        StudyConfig,
        ("study",),
        from_file=False,
    ),
    "plan": Command(
        "plan a configuration for a cluster that need not be there: tables, memory, time, cost", PlanConfig
    ),
    "calibrate": Command(
        "measure what this machine can do, for the times that plan says", CalibrateConfig, ("output",)
    ),
    "report": Command("show an experiment's table as a page", ReportConfig, ("results",), from_file=False),
    "diagnose": Command(
        "say why a model learns nothing, or too much: what is wrong with data, and what a run's figures show",
        DiagnoseConfig,
        ("path",),
        beside="config.yaml",
    ),
    "status": Command(
        "show what becomes of a run, while it goes on and after", StatusConfig, ("path",), from_file=False
    ),
    "preprocess": Command("turn raw Criteo files into a packed data set; started again, it goes on", PreprocessConfig),
    "pack": Command("turn CSV files with a header into a packed data set, keeping their split", PackConfig),
    "inspect": Command("show what a packed data set holds; --verify checks all of it", InspectConfig, ("path",)),
    "materialize": Command("write MLPerf's multi-hot files for a packed data set", MaterializeConfig, ("path",)),
    "synthesize": Command("profile how ids repeat in a data set; write data that repeats like it", SynthesizeConfig),
    "checkpoint list": Command("show which checkpoints there are", ListConfig, ("path",), from_file=False),
    "checkpoint show": Command("show what a checkpoint holds", ShowConfig, ("path",), from_file=False),
    "checkpoint verify": Command(
        "read every byte of checkpoints and name each damage", VerifyConfig, ("paths",), False
    ),
    "checkpoint diff": Command("show how two checkpoints differ", DiffConfig, ("first", "second"), from_file=False),
    "checkpoint export": Command("write one safetensors file", ExportConfig, ("path", "output"), from_file=False),
    "checkpoint import": Command("make a checkpoint of facebookresearch/dlrm's weights", ImportConfig, ("state_dict",)),
    "import-flags": Command(
        "print the configuration for a command line of facebookresearch/dlrm's torchrec trainer, or of MLPerf's",
        ImportFlagsConfig,
        from_file=False,
        foreign="command_line",
    ),
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
        words = self._named(command)
        if command.later:
            return command.later(words)
        _refuse(command, words)
        return load_options(command.options, self.config_path or self._beside(command, words), words)

    def _beside(self, command: Command, words: tuple[str, ...]) -> str | None:
        """The file that stands in for ``--config``."""
        if not command.beside:
            return None
        named = command_line_layer(words, switches(command.options) if command.options else ()).values
        if not (folder := named.get(command.positional[0])):
            if "data" in named:
                return None
            raise ConfigError.at(
                command.positional[0], "is required and was not given: name a run, or give --config FILE"
            )
        if not Path(f"{folder}/{command.beside}").is_file():
            raise ConfigError.at(
                command.positional[0], f"{folder} is no run's folder: there is no {command.beside} in it"
            )
        return f"{folder}/{command.beside}"

    def _named(self, command: Command) -> tuple[str, ...]:
        """The words with the names of the options that words on their own are the values of."""
        if not command.positional or command.options is None:
            return self.words
        types = {option.path: option.type_name for option in options(command.options)}
        alone_only = {f"--{path}" for path, of_every_kind in switches(command.options).items() if of_every_kind}
        given = {word.removeprefix("--").partition("=")[0] for word in self.words if _is_option(word)}
        free = [path for path in command.positional if path not in given]
        named: list[str] = []
        many: list[str] = []
        for before, word in zip(("=", *self.words), self.words, strict=False):
            alone = "=" in before or not before.startswith("--") or before in alone_only
            if not free or not alone or _is_option(word) or word in ("true", "false"):
                named.append(word)
            elif types[free[0]].endswith(",..."):
                many.append(word)
            else:
                named.append(_argument(free.pop(0), word))
        return (*named, _argument(free[0], many)) if many else tuple(named)


def _refuse(command: Command, words: tuple[str, ...]) -> None:
    """See that no option is given that the command would pass over.

    Raises:
        ConfigError: some are; the command says why.
    """
    if not command.refused or command.options is None:
        return
    switches = {option.path for option in options(command.options) if option.type_name == "true|false"}
    given = command_line_layer(words, switches).origins
    problems = [
        ConfigProblem(key, origin, why)
        for key, origin in given.items()
        if (why := command.refused.get(key.partition(".")[0]))
    ]
    if problems:
        raise ConfigError(problems)


def _is_option(word: str) -> bool:
    """Whether a word is ``--section.key``, ``--section.key=value`` or ``section.key=value``."""
    return word.startswith("--") or re.match(r"[\w.]+=", word) is not None


def _argument(path: str, value: str | list[str]) -> str:
    """``--path=value``, quoted so that the value is taken as it is."""
    return f"--{path}={json.dumps(value, ensure_ascii=False)}"


_OPTIONS = "options of the configuration:\n\n"


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> None:  # type: ignore[override]  # argparse would print usage, too
        raise ConfigError([ConfigProblem("", "command line", f"{message}; see --help")])


class _HelpAll(argparse.Action):
    """``--help`` with every option of a configuration, ``root``."""

    def __init__(self, *, root: type[Section], without: tuple[str, ...] = (), **argparse_s: Any) -> None:
        super().__init__(nargs=0, **argparse_s)
        self._root, self._without = root, without

    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> None:
        """Print and exit."""
        parser.epilog = _OPTIONS + help_text(self._root, everything=True, without=self._without)
        parser.print_help()
        parser.exit()


def parse(words: Sequence[str]) -> Request:
    """Read the command line; ``--help`` and ``--help-all`` print and exit.

    Raises:
        ConfigError: no or an unknown command. Options of the configuration are looked at by :meth:`Request.config`.
    """
    parser = _Parser(prog="dlrm_main.py", description="Train deep learning recommendation models on torchrec.")
    commands = {"": _subparsers(parser, "command")}
    for name, command in COMMANDS.items():
        group, _, last = name.rpartition(" ")
        if group not in commands:
            described = commands[""].add_parser(group, help=GROUPS[group], description=_sentence(GROUPS[group]))
            commands[group] = _subparsers(described, "subcommand")
        _add_command(commands[group], name, last, command)
    words, foreign = _parted(words)
    known, rest = parser.parse_known_args(words)
    rest += foreign
    name = f"{known.command} {known.subcommand}" if known.command in GROUPS else known.command
    if COMMANDS[name].options is None:
        if rest:
            parser.error(f"{name} takes no options, got {rest[0]}")
        return Request(name)
    if not COMMANDS[name].from_file:
        return Request(name, words=tuple(rest))
    return Request(name, known.config, tuple(rest), known.print_config)


def _parted(words: Sequence[str]) -> tuple[Sequence[str], list[str]]:
    """The words up to ``--``, and those after it as the option that holds them; all, where a command knows of no others'.

    Raises:
        ConfigError: the command needs the words of another program, and none follow ``--``.
    """
    command = COMMANDS.get(words[0]) if words else None
    if command is None or not command.foreign or {"-h", "--help", "--help-all"} & set(words[1:2]):
        return words, []
    cut = list(words).index("--") if "--" in words else len(words)
    if cut == len(words) or not (cut == 1 or _is_option(words[1])):
        message = (
            f"{words[0]} takes the other program's command line after --: dlrm_main.py {words[0]} -- torchx run ..."
        )
        raise ConfigError([ConfigProblem("", "command line", message)])
    return words[:cut], [_argument(command.foreign, list(words[cut + 1 :]))]


def _subparsers(parser: argparse.ArgumentParser, dest: str) -> Any:
    return parser.add_subparsers(dest=dest, required=True, metavar="COMMAND", parser_class=_Parser)


def _add_command(commands: Any, name: str, last_word: str, command: Command) -> None:
    """Add ``dlrm_main.py <name>`` to the subparsers of its group."""
    if command.options is None:
        commands.add_parser(last_word, help=command.purpose, description=command.purpose)
        return
    types = {option.path: option.type_name for option in options(command.options)}
    positional = "".join(f" {path.upper()}{' ...' * types[path].endswith(',...')}" for path in command.positional)
    file = " [--config FILE]" if command.from_file else ""
    described = commands.add_parser(
        last_word,
        help=command.purpose,
        description=_sentence(command.purpose),
        usage=f"dlrm_main.py {name}{positional}{file} [--section.key value | section.key=value ...]"
        + " -- COMMAND LINE" * bool(command.foreign),
        epilog=_OPTIONS + help_text(command.options, without=command.hidden),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    described.add_argument(
        "--help-all",
        action=_HelpAll,
        root=command.options,
        without=command.hidden,
        help="show the options few need, too",
    )
    if command.from_file:
        described.add_argument("--config", metavar="FILE", help="YAML file with options; those given here replace them")
        described.add_argument("--print-config", action="store_true", help="print the resolved configuration and exit")


def _sentence(purpose: str) -> str:
    return f"{purpose[0].upper()}{purpose[1:]}."
