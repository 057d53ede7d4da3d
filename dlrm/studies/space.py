"""From a search space to the options of a trial.

Terms: a *point* of a space has a value for each of its parameters, as people read it: a label, or the value of an option.
Its *settings* are what it sets: values by dotted option.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from dlrm.config.study import Categorical, FloatRange, IntRange, Space

Point = Mapping[str, Any]


@dataclass(frozen=True)
class Level:
    """A value of a categorical parameter: what it is called, and the options that it sets."""

    shown: Any
    settings: Mapping[str, Any]


def levels_of(name: str, parameter: Categorical) -> list[Level]:
    """All of a parameter.

    Raises:
        ValueError: two are called alike, or one's options are no mapping.
    """
    found = [_level(name, value) for value in parameter.values]
    called = [str(level.shown) for level in found]
    if twice := sorted({one for one in called if called.count(one) > 1}):
        raise ValueError(f"has {twice[0]} twice; give one another label")
    return found


def _level(name: str, value: Any) -> Level:
    if isinstance(value, dict) and "label" in value and value.keys() <= {"label", "options"}:
        options = value.get("options") or {}
        if not isinstance(options, dict):
            raise ValueError(f"options of {value['label']} must be a mapping from options to values")
        return Level(str(value["label"]), options)
    shown = value if isinstance(value, str | int | float) else json.dumps(value, ensure_ascii=False)
    return Level(shown, {name: value})


def settings_of(space: Space, point: Point) -> dict[str, Any]:
    """What a point sets."""
    found: dict[str, Any] = {}
    for name, parameter in space.items():
        if isinstance(parameter, Categorical):
            found |= next(level.settings for level in levels_of(name, parameter) if level.shown == point[name])
        else:
            found |= dict.fromkeys(parameter.sets or (name,), point[name])
    return found


def grid_of(space: Space) -> list[dict[str, Any]]:
    """Every point of a space of categorical parameters; the last parameter changes fastest."""
    levels = [[level.shown for level in levels_of(name, p)] for name, p in space.items() if isinstance(p, Categorical)]
    return [dict(zip(space, values, strict=True)) for values in itertools.product(*levels)]


def corners_of(space: Space) -> Iterator[dict[str, Any]]:
    """Points that have every value and every end of a range among them, each parameter's beside the others' first."""
    ends = {name: list(_ends(name, parameter)) for name, parameter in space.items()}
    first = {name: values[0] for name, values in ends.items()}
    yield first
    for name, values in ends.items():
        for value in values[1:]:
            yield {**first, name: value}


def _ends(name: str, parameter: Categorical | IntRange | FloatRange) -> Iterator[Any]:
    if isinstance(parameter, Categorical):
        yield from (level.shown for level in levels_of(name, parameter))
    else:
        yield from (parameter.low, parameter.high)
