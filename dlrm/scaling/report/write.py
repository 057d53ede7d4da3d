"""report.html of an experiment: one page that needs no other file, and its pictures as files beside it."""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from urllib.parse import quote

from dlrm.format import counted
from dlrm.run.page import data_uri
from dlrm.scaling.report import accuracy, curves, ranks, stacks
from dlrm.scaling.report.about import About, about_file, about_now, hardware
from dlrm.scaling.report.accuracy import accuracy_of
from dlrm.scaling.report.cells import table_of
from dlrm.scaling.report.levels import fixed_factors, levels_of
from dlrm.scaling.report.looks import Drawing, compact, label
from dlrm.scaling.report.parts import Head, ShownTable, Tile, write_page
from dlrm.scaling.report.points import PARTLY, Point, points_of
from dlrm.scaling.report.read import Factors, Results, of_rows, read_results
from dlrm.scaling.table import DONE, FAILED, MEASURED, MISSING, PREDICTED, PUBLISHED, Row

PAGE = "report.html"
_READING = (
    "Medians of the repeats, under them the lowest and highest; of predictions the band. Memory is that of the rank that "
    "takes most. Errors are predicted / measured - 1; those beyond 20 % stand out. A click on a heading sorts."
)
_MOST_NAMED = 30
_MOST_EMBEDDED = 1 << 20  # bytes of a table that travels in the page


def write_report(
    table: Path | Iterable[Row],
    folder: Path,
    *,
    factors: Mapping[tuple[str, str], Factors] | None = None,
    about: About | None = None,
) -> Path:
    """Write the page and its pictures, in the place of earlier ones.

    Args:
        table: of an experiment: results.parquet, results.csv, the folder that holds one of them, or rows.
        folder: for the page; it is made if need be.
        factors: of the points of rows, by (experiment, point): values by dotted option. A file has its own.
        about: the experiment in words; of a file, what lies beside it says so if left out.

    Returns:
        The page.

    Raises:
        DataError: the file is no table of an experiment, or has no rows.
        OSError: the folder cannot be written.
    """
    results = read_results(table) if isinstance(table, Path) else of_rows(table, factors)
    if about is None:
        about = about_file(results.path) if results.path else about_now()
    points = points_of(results)
    folder.mkdir(parents=True, exist_ok=True)
    own = [point for point in points if not point.is_published]
    columns, rows = table_of(points, levels_of(own))
    table_shown = ShownTable("points", "Points", _READING, columns, rows, list(_failures(points)))
    write_page(folder / PAGE, _head(results, points, about, folder), [table_shown], _drawings(points))
    return folder / PAGE


def _drawings(points: Sequence[Point]) -> list[Drawing]:
    own = [point for point in points if not point.is_published]
    lines = curves.lines_of(levels_of(own))
    others = [point for point in points if PUBLISHED in point.throughput]
    published = curves.published_lines(levels_of(others, PUBLISHED))
    return [
        curves.throughput(lines, published),
        curves.efficiency(lines),
        stacks.stages(points),
        stacks.exchanged(points),
        ranks.memory(points),
        ranks.balance(points),
        accuracy.prediction(own, lines),
        accuracy.published(others, published),
    ]


def _head(results: Results, points: Sequence[Point], about: About, folder: Path) -> Head:
    experiments = list(dict.fromkeys(point.experiment for point in points))
    link, download, table = _link(results, folder)
    fixed = fixed_factors([point for point in points if not point.is_published])
    details = hardware(about.environment)
    if fixed:
        details.append(("The same in all points", ", ".join(f"{name} = {value}" for name, value in fixed.items())))
    return Head(
        title=", ".join(experiments[:3]) + (f" and {len(experiments) - 3} more" if len(experiments) > 3 else ""),
        description=about.description,
        tiles=_tiles(points, about.date),
        details=details,
        link=link,
        download=download,
        table=table,
        size=f"{counted(len(results.rows), 'row')}, {counted(len(points), 'point')}",
        environment=json.dumps(about.environment, indent=2, default=str) if about.environment else "",
    )


def _failures(points: Sequence[Point]) -> Iterator[tuple[str, str, str]]:
    """(name, status, reason) of points that lack repeats."""
    found = [point for point in points if point.status in (FAILED, PARTLY, MISSING)]
    for point in found[:_MOST_NAMED]:
        yield point.name, point.status, "; ".join(point.reasons)
    if len(found) > _MOST_NAMED:
        yield f"and {len(found) - _MOST_NAMED:,} more", "", ""


def _tiles(points: Sequence[Point], date: str) -> list[Tile]:
    own = [point for point in points if point.repeats]
    counts = {status: sum(point.status == status for point in own) for status in (DONE, PARTLY, FAILED, MISSING)}
    kinds = {DONE: "good"}
    tiles = [
        Tile(f"{count:,}", _points_text(count, status), kinds.get(status, "bad" if count else ""))
        for status, count in counts.items()
        if count or status != PARTLY
    ]
    fastest = max((p for p in points if MEASURED in p.throughput), key=_measured, default=None)
    if fastest is not None:
        ranks_text = counted(fastest.ranks, "rank")
        tiles.append(
            Tile(compact(_measured(fastest)), f"samples/s at most, on {ranks_text}: {label(fastest.name, 40)}")
        )
    if (found := accuracy_of(points)) is not None:
        tiles.append(Tile(f"{found.median_error:.1%}", "median absolute error of predictions"))
    others = {PREDICTED: "points only predicted", PUBLISHED: "published points"}
    for status, text in others.items():
        if count := sum(point.status == status for point in points):
            tiles.append(Tile(f"{count:,}", text))
    if date:
        day, _, hour = date.partition(" ")
        tiles.append(Tile(day, f"{hour}, when the table was written"))
    return tiles


def _points_text(count: int, status: str) -> str:
    return f"point{'s' * (count != 1)} {status}"


def _measured(point: Point) -> float:
    return point.throughput[MEASURED].value


def _link(results: Results, folder: Path) -> tuple[str, str, str]:
    """(address, name to save it as, text) of the table: beside the page, or in it as CSV if it is not large."""
    if results.path is not None and results.path.resolve().parent == folder.resolve():
        return quote(results.path.name), "", results.path.name
    name = results.path.name if results.path is not None else "results.csv"
    content = _csv(results)
    if len(content) > _MOST_EMBEDDED:
        return "", "", str(results.path or "rows in memory")
    return data_uri(content, "text/csv"), f"{os.path.splitext(name)[0]}.csv", f"{name}, as CSV in this page"


def _csv(results: Results) -> bytes:
    text = io.StringIO()
    names = [one.name for one in fields(Row)]
    factors = list(dict.fromkeys(name for found in results.factors.values() for name in found))
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([*names, *factors])
    for row in results.rows:
        own = results.factors.get((row.experiment, row.point), {})
        writer.writerow([*(getattr(row, name) for name in names), *(own.get(name) for name in factors)])
    return text.getvalue().encode(errors="replace")
