"""``checkpoint list``, ``show``, ``verify``, ``diff`` and ``export`` as a person sees them."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import rich.console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

from dlrm.checkpoint.paths import is_removed, open_one
from dlrm.checkpoint.reader import open_reader
from dlrm.checkpoint.stored import Checkpoint, find_damage
from dlrm.checkpoint.tools.comparing import Comparison, compare, config_differences, state_bytes
from dlrm.checkpoint.tools.exporting import export, tensors_to_export
from dlrm.checkpoint.tools.format import count, delta_of, metadata_of, moment, text
from dlrm.checkpoint.tools.listing import entries
from dlrm.checkpoint.tools.showing import config_text, metadata_table, others_table, tables_table
from dlrm.checkpoint.tools.tables import add, list_table, plain_table, show, terminal
from dlrm.checkpoint.tools.verifying import committed, restoring_damage, with_dependencies
from dlrm.config.checkpoint_commands import (
    CheckpointCommand,
    DiffConfig,
    ExportConfig,
    ListConfig,
    ShowConfig,
    VerifyConfig,
)
from dlrm.errors import CheckpointError
from dlrm.format import byte_size, counted, escaped


def run_checkpoint_command(config: CheckpointCommand) -> None:
    """Do what the configuration is for.

    Raises:
        CheckpointError: there is no such checkpoint, or it is damaged; a file cannot be written.
    """
    console = terminal()
    match config:
        case ListConfig():
            _list(config, console)
        case ShowConfig():
            _show(config, console)
        case VerifyConfig():
            _verify(config, console)
        case DiffConfig():
            _diff(config, console)
        case ExportConfig():
            _export(config, console)


def _say(console: rich.console.Console, line: str) -> None:
    console.print(line, markup=False, soft_wrap=True)


@contextmanager
def _progress(console: rich.console.Console, what: str, total: int) -> Iterator[Callable[[int], None]]:
    """A bar of bytes, on a terminal; safe from several threads."""
    columns = (TextColumn(what), BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal, transient=True) as progress:
        bar = progress.add_task(what, total=total)
        yield lambda nbytes: progress.advance(bar, nbytes)


def _list(config: ListConfig, console: rich.console.Console) -> None:
    found = entries(config.path)
    if found:
        console.print(list_table(found))
    else:
        _say(console, f"{escaped(config.path, 500)} holds no checkpoints")


def _open(path: str, console: rich.console.Console) -> Checkpoint:
    checkpoint, skipped = open_one(path)
    for reason in skipped:
        _say(console, f"passed over: {reason}")
    return checkpoint


def _show(config: ShowConfig, console: rich.console.Console) -> None:
    if config.config:
        sys.stdout.write(config_text(open_one(config.path)[0]))
        return
    checkpoint = _open(config.path, console)
    console.print(metadata_table(checkpoint))
    show(console, "Tables", tables_table(checkpoint))
    show(console, "Other tensors", others_table(checkpoint))


def _verify(config: VerifyConfig, console: rich.console.Console) -> None:
    found = with_dependencies([what for path in config.paths for what in committed(path)])
    opened = [what for what in found if isinstance(what, Checkpoint)]
    faults = [what for what in found if isinstance(what, CheckpointError)]
    whole = 0
    for fault in faults:
        _say(console, escaped(fault, 1000))
    with _progress(console, "verify", sum(checkpoint.manifest.bytes for checkpoint in opened)) as told:
        for checkpoint in opened:
            errors = find_damage(checkpoint, told) or restoring_damage(checkpoint)
            shown = escaped(checkpoint.path, 500)
            if errors and is_removed(checkpoint.path, checkpoint.storage):
                _say(console, f"{shown}: passed over, it was removed meanwhile")
                continue
            for error in errors:
                _say(console, escaped(error, 1000))
            if not errors:
                _say(console, f"{shown}: whole ({byte_size(checkpoint.manifest.bytes)})")
                whole += 1
            faults += errors
    if faults:
        problem = f"damaged; {counted(len(faults), 'fault')} in {counted(len(found), 'checkpoint')}, all listed above"
        raise CheckpointError(escaped(faults[0].path, 500), problem, hint="restore the files or use another checkpoint")
    if not whole:
        raise CheckpointError(escaped(config.paths[0], 500), "holds no committed checkpoint any more", hint="try again")


def _diff(config: DiffConfig, console: rich.console.Console) -> None:
    first, second = _open(config.first, console), _open(config.second, console)
    for letter, checkpoint in (("A", first), ("B", second)):
        _say(console, f"{letter} is {escaped(checkpoint.path, 500)}")
        if kind := delta_of(checkpoint):
            _say(console, f"  a {kind}: the state that it restores is compared")
    metadata = plain_table(("metadata", "A", "B"), words=("A", "B"))
    for topic, one, other in zip(*_metadata(first), _metadata(second)[1], strict=True):
        if one != other:
            add(metadata, topic, one, other)
    options = plain_table(("option", "A", "B"), words=("A", "B"))
    for path, one, other in config_differences(first, second):
        add(options, escaped(path), escaped(one), escaped(other))
    readers = open_reader(first), open_reader(second)
    with _progress(console, "compare", state_bytes(readers[0])) as told:
        comparison = compare(*readers, told)
    show(console, "Metadata that differ", metadata)
    show(console, "Options that differ", options)
    _show_comparison(comparison, console)


def _metadata(checkpoint: Checkpoint) -> tuple[list[str], list[str]]:
    """Topics, and what the checkpoint says of each."""
    position = ("epoch", "batch", "samples")
    values = [f"{checkpoint.step:,}", *(count(metadata_of(checkpoint, "position", key)) for key in position)]
    values += [moment(metadata_of(checkpoint, "time")), text(metadata_of(checkpoint, "reason"))]
    return ["step", *position, "saved", "reason", "ranks"], [*values, f"{checkpoint.manifest.world_size:,}"]


def _show_comparison(found: Comparison, console: rich.console.Console) -> None:
    columns = ("tensor", "elements", "differ", "share", "largest difference")
    table = plain_table(columns)
    for change in found.changed:
        share = f"{change.differing / change.elements:.2%}"
        cells = (f"{change.elements:,}", f"{change.differing:,}", share, f"{change.largest:.6g}")
        add(table, escaped(change.name), *cells)
    show(console, "Tensors that differ", table)
    console.print()
    for title, names in (("only in A", found.only_first), ("only in B", found.only_second)):
        for name in names:
            _say(console, f"{title}: {escaped(name)}")
    for line in found.reshaped:
        _say(console, f"another shape or type in B: {escaped(line, 300)}")
    _say(console, f"{counted(found.equal, 'tensor')} equal to the bit, {len(found.changed):,} with other values")


def _export(config: ExportConfig, console: rich.console.Console) -> None:
    reader = open_reader(_open(config.path, console))
    names = tensors_to_export(reader, optimizer=config.optimizer)
    with _progress(console, "export", sum(reader.tensors[name].bytes for name in names)) as told:
        path = export(reader, names, config.output, overwrite=config.overwrite, progress=told)
    size = byte_size(path.stat().st_size)
    step = f"of step {reader.checkpoint.step:,}"
    _say(console, f"wrote {escaped(path, 500)} ({counted(len(names), 'tensor')}, {size}) {step}")
