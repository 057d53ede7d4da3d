"""``dlrm_main.py inspect``."""

from __future__ import annotations

from pathlib import Path

import rich.console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

from dlrm.config.data.packed import PartSplit
from dlrm.config.prepare import InspectConfig
from dlrm.data.id_statistics.file import write_statistics
from dlrm.data.packed.folder import PackedFolder, open_packed
from dlrm.data.packed.manifest import Manifest
from dlrm.data.packed.naming import find_parts, read_manifest
from dlrm.data.packed.remote import is_remote
from dlrm.data.packed.split import Part, ResolvedSplit, resolve_split
from dlrm.dataset_tools.inspect import tables
from dlrm.dataset_tools.inspect.figures import Figures, figures_of
from dlrm.dataset_tools.inspect.pictures import draw
from dlrm.dataset_tools.inspect.sample import sample_rows
from dlrm.dataset_tools.inspect.verify import recorded_bytes, verify
from dlrm.errors import ConfigError, DataError, SetupError
from dlrm.format import byte_size, counted
from dlrm.progress import standard_output

_ANY_TABLE = 2**40  # rows of the tables while nothing says how many they have


def run_inspect(config: InspectConfig) -> None:
    """Verify a packed data set if that is asked for, then show what is in it.

    Raises:
        ConfigError: the path is remote.
        DataError: the data set cannot be opened, or the statistics of ids not be written; or the first fault of
            ``verify``, after the others were printed.
        SetupError: the pictures cannot be written into the folder that was named for them.
    """
    console = standard_output(110)
    if is_remote(config.path):
        raise ConfigError.at("path", f"{config.path} is remote: name a folder that this host sees")
    manifest = read_manifest(config.path)
    if config.verify:
        _verify(config.path, manifest, console)
    _show(config, manifest, console)


def _verify(path: str, manifest: Manifest | None, console: rich.console.Console) -> None:
    columns = (TextColumn("verify"), BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal, transient=True) as progress:
        bar = progress.add_task("verify", total=recorded_bytes(manifest))
        found = verify(path, manifest, lambda nbytes: progress.advance(bar, nbytes))
    for fault in found.faults[1:]:  # the first is the error
        console.print(str(fault), markup=False, soft_wrap=True)
    if found.faults:
        first, others = found.faults[0], len(found.faults) - 1
        further = f" ({counted(others, 'further fault')} in other files)" if others else ""
        raise DataError(first.path, first.problem + further, row=first.row, column=first.column, hint=first.hint)
    what = "checksums, ids, labels and dense values are" if manifest is not None else "ids, labels and dense values are"
    console.print(f"verified {counted(found.files, 'file')} ({byte_size(found.nbytes)}): {what} as they should be")


def _show(config: InspectConfig, manifest: Manifest | None, console: rich.console.Console) -> None:
    path = config.path
    folder = _open(path, manifest)
    sizes = [Part(part.name, part.rows) for part in folder.parts]
    if not any(part.rows for part in sizes):
        raise DataError(path, "holds no row", hint="preprocess again")
    sample = sample_rows(sizes, _split(manifest, sizes), config.sample_rows)
    with console.status(f"reading {sample.taken:,} rows"):
        figures = figures_of(folder, sample)
    console.print(tables.headline(figures), markup=False, soft_wrap=True)
    console.print()
    shown = [tables.splits_table(figures), tables.parts_table(figures), tables.sparse_table(figures.sparse)]
    if figures.sparse:
        shown.append(tables.spread_table(figures.sparse))
    if figures.dense:
        shown.append(tables.dense_table(figures.dense))
    for table in shown:
        console.print(table)
    console.print(tables.bullets([*tables.notes(figures), *_drawn(config, figures), *_kept(config, figures)]))


def _drawn(config: InspectConfig, figures: Figures) -> list[str]:
    """Draw the pictures and say where; beside data that nobody may write to there are none."""
    try:
        pictures = draw(figures, Path(config.pictures or Path(config.path) / "inspect"))
    except SetupError as error:
        if config.pictures:
            raise
        rich.console.Console(stderr=True).print(f"no pictures: {error}", markup=False, highlight=False, soft_wrap=True)
        return []
    return [f"Pictures in {pictures[0].parent}: {', '.join(picture.name for picture in pictures)}."]


def _kept(config: InspectConfig, figures: Figures) -> list[str]:
    """Write the statistics of ids where that is asked for, and say so."""
    if not config.id_statistics:
        return []
    write_statistics([column.spread for column in figures.sparse], config.id_statistics)
    return [f"Statistics of ids in {config.id_statistics}."]


def _open(path: str, manifest: Manifest | None) -> PackedFolder:
    """The data set with its one-hot ids or, where it has none, with its multi-hot ones."""
    found = find_parts(path, manifest, ("dense", "labels"))
    one_hot = any("sparse" in part.paths for part in found)
    return open_packed(path, rows=None if manifest is not None else (_ANY_TABLE,), multi_hot=not one_hot)


def _split(manifest: Manifest | None, parts: list[Part]) -> ResolvedSplit | None:
    """The recorded split; without a record, what training would take, if it can tell."""
    if manifest is not None:
        return manifest.resolved_split
    return resolve_split(PartSplit(), parts, "data.split") if len(parts) > 1 else None
