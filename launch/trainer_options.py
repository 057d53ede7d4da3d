"""The options of a run as far as a launcher has to know them, from its YAML file and the words after it.

The trainer's own reader checks and explains options; here what cannot be read is left out. Nothing of the package dlrm is
imported, because a machine that launches need not be able to train.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import yaml

_SHORT = {"resume": "resume.checkpoint"}
_WORD = re.compile(r"(?:--)?([A-Za-z_][\w.]*)=(.*)", re.DOTALL)


def read_options(config: str, words: Sequence[str]) -> dict[str, Any]:
    """Dotted name -> value: of the file where it can be read, and of ``--a.b value``, ``--a.b=value``, ``a.b=value``."""
    found: dict[str, Any] = {}
    with suppress(OSError, UnicodeDecodeError, yaml.YAMLError):
        content = yaml.safe_load(Path(config).read_text(encoding="utf-8")) if config else None
        if isinstance(content, dict):
            found.update(_flat(content))
    found.update(_flat(dict(_of_words(words))))
    return {_SHORT.get(name, name): value for name, value in found.items()}


def _of_words(words: Sequence[str]) -> Iterator[tuple[str, Any]]:
    rest = list(words)
    while rest:
        word = rest.pop(0)
        if match := _WORD.fullmatch(word):
            yield match[1], _value(match[2])
        elif word.startswith("--"):
            has_value = rest and not rest[0].startswith("--") and not _WORD.fullmatch(rest[0])
            yield word[2:], _value(rest.pop(0)) if has_value else True


def _value(text: str) -> Any:
    with suppress(yaml.YAMLError):
        return yaml.safe_load(text)
    return text


def _flat(values: Mapping[Any, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in values.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value
