"""What pages of results are made of: a head, tables, and figures, all in one file that needs nothing else."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from dlrm.files import written_beside
from dlrm.run.page import STYLE, data_uri, render
from dlrm.run.secondary import write_text
from dlrm.scaling.report import template
from dlrm.scaling.report.cells import Cell, Column
from dlrm.scaling.report.looks import Drawing, Pictures, pictures_of


@dataclass(frozen=True)
class Tile:
    """A figure at the head of the page."""

    value: str
    text: str
    kind: str = ""


@dataclass(frozen=True)
class Head:
    """What the page says before its figures.

    Attributes:
        title, description: of the experiment; tiles, details: figures, and (name, text) lines.
        link: to the table; download: the name of one that is in the page; table, size: its name and how much it holds.
        environment: versions, hardware and code as text.
        what: the page is of; statements: what a reader has to know of its figures.
    """

    title: str
    description: str
    tiles: Sequence[Tile]
    details: Sequence[tuple[str, str]]
    link: str
    download: str
    table: str
    size: str
    environment: str = ""
    what: str = "Scaling experiment"
    statements: Sequence[str] = ()


@dataclass(frozen=True)
class ShownTable:
    """A table of the page.

    Attributes:
        name: its place on the page; title: of it; reading: how to read it.
        columns, rows: of it; failures: (name, status, reason) lines under it.
    """

    name: str
    title: str
    reading: str
    columns: Sequence[Column]
    rows: Sequence[Sequence[Cell]]
    failures: Sequence[tuple[str, str, str]] = ()


@dataclass(frozen=True)
class Shown:
    """A figure as the page has it: addresses of its pictures, or why there is none."""

    name: str
    title: str
    caption: str
    alt: str
    wide: str
    narrow: str
    why: str
    notes: Sequence[str]


def write_page(
    path: Path, head: Head, tables: Sequence[ShownTable], drawings: Sequence[Drawing], *, after: Sequence[str] = ()
) -> None:
    """Write a page, and the pictures of its figures beside it, in the place of earlier ones.

    Args:
        path: of the page; its folder is there.
        head: of it.
        tables: before the figures, but for those that ``after`` names, which come after them.
        drawings: the figures.
        after: names of tables.

    Raises:
        OSError: it cannot be written.
    """
    page = render(
        template.PAGE,
        policy=template.policy(),
        style=STYLE + template.STYLE,
        script=template.SCRIPT,
        head=head,
        tables=[table for table in tables if table.name not in after],
        figures=[show(drawing, path.parent) for drawing in drawings],
        later_tables=[table for table in tables if table.name in after],
    )
    write_text(path, page)


def show(drawing: Drawing, folder: Path) -> Shown:
    """Draw it and write its file; none of an earlier report stays."""
    file = folder / f"{drawing.name}.png"
    wide = narrow = ""
    if drawing.draw is None:
        file.unlink(missing_ok=True)
    else:
        pictures: Pictures = pictures_of(drawing.draw)
        with written_beside(file, durable=False) as out:
            out.write(pictures.png)
        wide, narrow = (data_uri(svg, "image/svg+xml") for svg in (pictures.wide_svg, pictures.narrow_svg))
    return Shown(drawing.name, drawing.title, drawing.caption, drawing.alt, wide, narrow, drawing.why, drawing.notes)
