"""Which of the files that a pattern or a folder holds are data: by custom, not those whose names begin with ``_`` or ``.``.

Spark, Hadoop and Dask leave ``_SUCCESS``, ``_metadata``, ``_temporary/`` and ``.part-0.crc`` beside what they write, macOS
``._day_0``.
"""

from __future__ import annotations

import glob
from collections.abc import Iterable, Sequence
from pathlib import PurePath

_ASIDE = ("_", ".")
LEFT_OUT = "names that begin with _ or . are left out"


def is_data(name: str) -> bool:
    """Whether a file of this name, the last part of its path, is data."""
    return not name.startswith(_ASIDE)


def matching_data(pattern: str, matches: Iterable[str]) -> list[str]:
    """The paths that match a pattern and are data; all where the pattern itself asks for ``_`` or ``.`` at a beginning.

    Args:
        pattern: as for :mod:`glob`; what it spells out before its first wildcard may have any name.
        matches: what matches it.
    """
    parts = PurePath(pattern).parts
    spelled = next((i for i, part in enumerate(parts) if glob.has_magic(part)), len(parts))
    if not all(map(is_data, parts[spelled:])):
        return list(matches)
    return [path for path in matches if all(map(is_data, PurePath(path).parts[spelled:]))]


def some_names(names: Sequence[str]) -> str:
    """The first few names, for messages."""
    return ", ".join(sorted(names)[:3]) + (", .." if len(names) > 3 else "")
