"""Which rows of which parts are for training, validation and test."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal

from dlrm.config.data.packed import PartSplit
from dlrm.errors import ConfigError

_ENTRY = re.compile(r"^(?P<part>[^\[\]]+?)(\[(?P<start>[0-9.]*):(?P<stop>[0-9.]*)\])?$")


@dataclass(frozen=True)
class Part:
    """A part of a packed data set and how many rows it has."""

    name: str
    rows: int


@dataclass(frozen=True)
class Span:
    """Rows start .. stop - 1 of a part."""

    part: str
    start: int
    stop: int

    def __len__(self) -> int:
        return self.stop - self.start


@dataclass(frozen=True)
class ResolvedSplit:
    """The rows of each split, in order; the three share none."""

    train: tuple[Span, ...]
    validation: tuple[Span, ...] = ()
    test: tuple[Span, ...] = ()


def natural_key(name: str) -> tuple[tuple[int, int | str], ...]:
    """Sorts ``day_2`` before ``day_10``."""
    return tuple((0, int(piece)) if piece.isdecimal() else (1, piece) for piece in re.split(r"(\d+)", name) if piece)


def resolve_split(config: PartSplit, parts: Sequence[Part], key: str) -> ResolvedSplit:
    """Turn the configured entries into rows.

    Args:
        config: entries; all empty: all parts but the last for training, the halves of the last for validation (the
            first half, which has one row more where it does not divide evenly) and test, as Criteo Terabyte's day 23.
        parts: in order.
        key: dotted path of ``config``, for messages.

    Raises:
        ConfigError: every entry that names no part or no rows, rows that are used twice, no training rows.
    """
    if not (config.train or config.validation or config.test):
        return _with_training_rows(_last_part_halved(parts, key), key)
    problems: list[ConfigError] = []
    spans: dict[str, tuple[Span, ...]] = {}
    for name in ("train", "validation", "test"):
        try:
            spans[name] = tuple(
                span for entry in getattr(config, name) for span in _spans(entry, parts, f"{key}.{name}")
            )
        except ConfigError as error:
            problems.append(error)
    if problems:
        raise ConfigError([problem for error in problems for problem in error.problems])
    split = ResolvedSplit(**spans)
    overlap = find_overlap(split)
    if overlap:
        raise ConfigError.at(key, overlap)
    return _with_training_rows(split, key)


def find_overlap(split: ResolvedSplit) -> str:
    """Which rows are used twice, in words; empty if none are."""
    named = (("train", split.train), ("validation", split.validation), ("test", split.test))
    used = sorted((span.part, span.start, span.stop, name) for name, spans in named for span in spans if len(span))
    for (part, _, stop, name), (other, start, other_stop, other_name) in itertools.pairwise(used):
        if part == other and start < stop:
            users = f"{name} and {other_name} share" if name != other_name else f"{name} uses twice the"
            return f"{users} rows {start} .. {min(stop, other_stop) - 1} of {part}"
    return ""


def _with_training_rows(split: ResolvedSplit, key: str) -> ResolvedSplit:
    if not any(len(span) for span in split.train):
        raise ConfigError.at(f"{key}.train", "holds no row: name parts to train on")
    return split


def _last_part_halved(parts: Sequence[Part], key: str) -> ResolvedSplit:
    if len(parts) < 2:
        message = (
            f"there is one part only, {parts[0].name}: say which of its rows are for what, e.g. "
            f"train: ['{parts[0].name}[:0.8]'], validation: ['{parts[0].name}[0.8:0.9]'], test: ['{parts[0].name}[0.9:]']"
        )
        raise ConfigError.at(key, message)
    *first, last = parts
    middle = -(-last.rows // 2)
    return ResolvedSplit(
        train=tuple(Span(part.name, 0, part.rows) for part in first),
        validation=(Span(last.name, 0, middle),),
        test=(Span(last.name, middle, last.rows),),
    )


def _spans(entry: str, parts: Sequence[Part], key: str) -> list[Span]:
    names = [part.name for part in parts]
    match = _ENTRY.match(entry)
    if match is None:
        raise ConfigError.at(key, f"{entry!r} is neither part, part..part nor part[start:stop]")
    first, dots, last = match["part"].partition("..")
    for name in (first, last) if dots else (first,):
        if name not in names:
            raise ConfigError.at(key, f"there is no part {name!r}; there are {_listed(names)}")
    chosen = parts[names.index(first) : names.index(last) + 1] if dots else [parts[names.index(first)]]
    if not chosen:
        raise ConfigError.at(key, f"{entry!r} holds no part: {last} comes before {first}")
    return [_rows(part, match["start"], match["stop"], entry, key) for part in chosen]


def _rows(part: Part, start: str | None, stop: str | None, entry: str, key: str) -> Span:
    first = _row(start, part.rows, entry, key) if start else 0
    last = _row(stop, part.rows, entry, key) if stop else part.rows
    if not first <= last <= part.rows:
        raise ConfigError.at(key, f"{entry!r} asks for rows {first} .. {last} of {part.name}, which has {part.rows}")
    return Span(part.name, first, last)


def _row(text: str, rows: int, entry: str, key: str) -> int:
    """``0.5`` is half of the rows, rounded up; a number without a point is a number of rows."""
    try:
        return math.ceil(Decimal(text) * rows) if "." in text else int(text)
    except (ArithmeticError, ValueError):  # "." is no number, and int() takes 4300 digits at most
        raise ConfigError.at(key, f"{text!r} in {entry!r} is neither a number of rows nor a fraction") from None


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names) if len(names) <= 6 else f"{', '.join(names[:3])}, .., {names[-1]}"
