"""Flags of another trainer and how they are read.

argparse reads them there. As there, a flag may be shortened as long as no other begins so, and of one that is given twice
the later value counts. Unlike there, all mistakes are told at once.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dlrm.config.moving import OtherTrainer
from dlrm.errors import ConfigError, ConfigProblem
from dlrm.format import did_you_mean, escaped
from dlrm.moving.lines import Command, Idle, Line

Read = Callable[[str], Any]
Write = Callable[[Command], Iterator[Line]]
_NUMBER = re.compile(r"^-\d+$|^-\d*\.\d+$")  # what argparse takes for a value although it begins with a dash


@dataclass(frozen=True)
class Flag:
    """A flag of the other trainer.

    Attributes:
        name: without dashes.
        read: its value from a word, or ValueError with what it must be; None: a switch, which has no value.
        default: its value where it is not given.
        becomes: what it becomes here, or why it has no meaning here, in words.
        mapped: the settings and remarks of a command line that concern it; None: it has no meaning here.
        trainer: the only one that has it; None: both.
    """

    name: str
    read: Read | None
    default: Any
    becomes: str
    mapped: Write | None = None
    trainer: OtherTrainer | None = None

    def write(self, command: Command) -> Iterator[Line]:
        """What this flag becomes in a command line."""
        if self.mapped is not None:
            yield from self.mapped(command)
        elif self.name in command.given:
            yield Idle(f"--{self.name}", self.becomes)


def whole(word: str) -> int:
    """A whole number."""
    try:
        return int(word)
    except ValueError:
        raise ValueError("must be a whole number") from None


def at_least(smallest: int) -> Read:
    """A whole number that is not smaller."""

    def read(word: str) -> int:
        if (number := whole(word)) < smallest:
            raise ValueError(f"must be {smallest} or more")
        return number

    return read


def number(word: str) -> float:
    """A number."""
    try:
        return float(word)
    except ValueError:
        raise ValueError("must be a number") from None


def sizes(word: str) -> tuple[int, ...]:
    """Whole numbers of 1 or more with commas between them."""
    try:
        found = tuple(map(int, word.split(",")))
    except ValueError:
        raise ValueError("must be whole numbers with commas between them, as in 512,256,64") from None
    if min(found) < 1:
        raise ValueError("must be numbers of 1 or more")
    return found


def one_a_feature(word: str) -> tuple[int, ...]:
    """:func:`sizes`, one for each of Criteo's 26 sparse features."""
    if len(found := sizes(word)) != 26:
        raise ValueError(f"has {len(found)} numbers, must have 26: one for each sparse feature of Criteo")
    return found


def path(word: str) -> str:
    """The name of a folder."""
    if not word:
        raise ValueError("is empty (an unset variable?): name the folder of the data set")
    return word


def text(word: str) -> str:
    """Any text."""
    return word


def one_of(*choices: str) -> Read:
    """One of a few words."""

    def read(word: str) -> str:
        if word not in choices:
            hint = did_you_mean(word, choices)
            raise ValueError(f"must be one of {', '.join(choices)}" + (f"; {hint}" if hint else ""))
        return word

    return read


def read_flags(words: Sequence[str], flags: Sequence[Flag], removed: Mapping[str, str]) -> dict[str, Any]:
    """The values of the flags that are given, by name.

    Args:
        words: the command line behind the script.
        flags: that there are.
        removed: flags of older versions, and what to do about each.

    Raises:
        ConfigError: every flag that is unknown or has a value that the trainer refuses.
    """
    values: dict[str, Any] = {}
    problems: list[ConfigProblem] = []
    rest = list(words)
    while rest:
        name, equals, given = rest.pop(0).partition("=")
        value = given if equals else None
        try:
            flag = _named(name, flags, removed)
            if value is None and rest and not _begins_flag(rest[0]) and flag.read is not None:
                value = rest.pop(0)
            values[flag.name] = _value(flag, value)
        except _NoSuchFlag as error:
            problems.append(ConfigProblem(escaped(name, 60), "", str(error)))
            if name.startswith("--") and value is None and rest and not _begins_flag(rest[0]):
                del rest[0]  # its value: no further mistake
        except ValueError as error:
            problems.append(ConfigProblem(escaped(name, 60), "", str(error)))
    if problems:
        raise ConfigError(problems)
    return values


class _NoSuchFlag(ValueError):  # noqa: N818  # says which flag there is not
    pass


def _begins_flag(word: str) -> bool:
    """Whether a word is no value, as argparse sees it: it begins with a dash, and is neither a number nor has spaces."""
    return word.startswith("-") and word != "-" and " " not in word.partition("=")[0] and not _NUMBER.match(word)


def _named(word: str, flags: Sequence[Flag], removed: Mapping[str, str]) -> Flag:
    """The flag that a word names in full or shortened.

    Raises:
        _NoSuchFlag: none or several, in words.
    """
    name = word.removeprefix("--")
    if word == name:
        raise _NoSuchFlag("is no flag, and that trainer takes nothing else")
    exact = [flag for flag in flags if flag.name == name]
    if not exact and name in removed:
        raise _NoSuchFlag(f"is no flag of that trainer any more: {removed[name]}")
    begin_so = exact or [flag for flag in flags if name and flag.name.startswith(name)]
    if len(begin_so) > 1:
        raise _NoSuchFlag(f"may be {' or '.join(f'--{flag.name}' for flag in begin_so)}: write it in full")
    if not begin_so:
        hint = did_you_mean(word, [f"--{flag.name}" for flag in flags])
        raise _NoSuchFlag("unknown flag of that trainer" + (f"; {hint}" if hint else ""))
    return begin_so[0]


def _value(flag: Flag, word: str | None) -> Any:
    """The value of a flag from its word, None where there is none.

    Raises:
        ValueError: what is wrong with it.
    """
    if flag.read is None:
        if word is not None:
            raise ValueError(f"takes no value, and has {escaped(word, 40)!r}")
        return True
    if word is None:
        raise ValueError("has no value")
    try:
        return flag.read(word)
    except ValueError as error:
        shown = f"is {escaped(word, 40)}, " if str(error).startswith("must") else ""
        raise ValueError(f"{shown}{error}") from None
