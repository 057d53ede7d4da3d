"""What was found, in words for people and with a name for programs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Literal

from dlrm.format import counted, escaped

Level = Literal["warning", "note"]
_NAMES_SHOWN = 3


@dataclass(frozen=True)
class Finding:
    """A cause and what to do about it.

    Attributes:
        cause: its name, e.g. ``constant_labels``.
        said: what was seen, with the figures; hint: what to do.
        level: a note is what may be meant so: only who knows the data can tell.
    """

    cause: str
    said: str
    hint: str
    level: Level = "warning"

    def __str__(self) -> str:
        return f"{self.level}: {self.said}; {self.hint}"

    def to_dict(self) -> dict[str, str]:
        """The fields by name, ready for JSON."""
        return asdict(self)


def named(names: Sequence[str], noun: str = "other") -> str:
    """Some columns: ``int_3``, ``int_3, int_4 and 5 others``."""
    shown = ", ".join(escaped(name, 40) for name in names[:_NAMES_SHOWN])
    more = len(names) - _NAMES_SHOWN
    return f"{shown} and {counted(more, noun)}" if more > 0 else shown


def percent(share: float) -> str:
    """A share as people read it, with two significant digits."""
    return f"{100 * share:.2g} %" if share < 0.995 else f"{100 * share:.4g} %"
