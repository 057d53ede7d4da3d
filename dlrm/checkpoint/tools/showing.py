"""``checkpoint show``: one checkpoint's metadata and tensors."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import yaml
from rich.table import Table

from dlrm.checkpoint.delta.format import KEY
from dlrm.checkpoint.delta.quantise import PARAMETER_BYTES, QUANTISED_PREFIX
from dlrm.checkpoint.manifest import TensorRecord
from dlrm.checkpoint.stored import Checkpoint
from dlrm.checkpoint.tensors import full_name, names_by_table
from dlrm.checkpoint.tools.format import (
    best_metric,
    count,
    delta_of,
    figure,
    metadata_of,
    metrics,
    moment,
    text,
)
from dlrm.checkpoint.tools.tables import add, plain_table
from dlrm.config.dialect import Dumper
from dlrm.errors import CheckpointError
from dlrm.format import byte_size, counted, escaped
from dlrm.table_names import table_name


def metadata_lines(checkpoint: Checkpoint) -> Iterator[tuple[str, str]]:
    """What to know of a checkpoint: topics and words."""
    position = {key: metadata_of(checkpoint, "position", key) for key in ("epoch", "batch", "samples")}
    yield "checkpoint", escaped(checkpoint.path, 500)
    yield "kind", delta_of(checkpoint) or "full"
    if delta_of(checkpoint):
        base, bits = metadata_of(checkpoint, KEY, "base", "step"), metadata_of(checkpoint, KEY, "bits")
        yield "", f"restored with step {count(base)} and the deltas between; {count(bits)} bits a weight"
    yield "step", f"{checkpoint.step:,}"
    yield "position", ", ".join(f"{key} {count(value)}" for key, value in position.items())
    yield "saved", f"{moment(metadata_of(checkpoint, 'time'))} ({text(metadata_of(checkpoint, 'reason'))})"
    manifest = checkpoint.manifest
    yield "written by", f"{counted(manifest.world_size, 'rank')}, in {counted(len(manifest.files), 'file')}"
    yield "size", f"{byte_size(manifest.bytes)} in {counted(len(manifest.tensors), 'tensor')}"
    yield from _pairs("metrics", metrics(checkpoint), figure)
    yield "best", best_metric(checkpoint) or "none"
    yield from _pairs("versions", metadata_of(checkpoint, "versions"), escaped)
    yield "checksum", checkpoint.manifest_checksum


def _pairs(topic: str, found: Any, as_words: Any) -> Iterator[tuple[str, str]]:
    if isinstance(found, dict) and found:
        yield topic, ", ".join(f"{escaped(key, 40)} {as_words(value)}" for key, value in found.items())


def metadata_table(checkpoint: Checkpoint) -> Table:
    """The metadata without lines around them."""
    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for topic, words in metadata_lines(checkpoint):
        add(table, topic, words)
    return table


def tables_table(checkpoint: Checkpoint) -> Table:
    """The embedding tables: rows, width, type, bytes of weights and of their optimizer's state."""
    columns = ("table", "rows", "dim", "dtype", "weights", "optimizer", "state")
    table = plain_table(columns, words=("dtype", "state"))
    found = checkpoint.tensors
    whole = {name: names for name, names in names_by_table(found).items() if "weight" in names}
    all_weights, all_states = [], []
    for name, names in whole.items():
        weight = found[full_name(name, "weight")]
        kinds = [state for state in names if state.startswith("optimizer.")]
        states = [found[full_name(name, state)] for state in kinds]
        all_weights.append(weight)
        all_states += states
        rows, dim = (*weight.shape, 1, 1)[:2]
        words = ", ".join(escaped(state.removeprefix("optimizer."), 30) for state in kinds)
        cells = (f"{rows:,}", f"{dim:,}", weight.dtype, byte_size(_bytes([weight])), byte_size(_bytes(states)), words)
        add(table, escaped(table_name(name)), *cells)
    if whole:
        add(table, "", "", "", "", byte_size(_bytes(all_weights)), byte_size(_bytes(all_states)), "in all")
    return table


def others_table(checkpoint: Checkpoint) -> Table:
    """All tensors that do not belong to tables, one by one."""
    table = plain_table(("tensor", "shape", "dtype", "bytes"), words=("dtype",))
    by_table = names_by_table(checkpoint.tensors)
    with_weights = {name: names for name, names in by_table.items() if "weight" in names}
    shown = {full_name(name, inner) for name, names in with_weights.items() for inner in names if inner != "average"}
    for tensor in checkpoint.manifest.tensors:
        if tensor.name not in shown:
            name, shape, kind = _as_restored(tensor) if delta_of(checkpoint) else (tensor.name, tensor.shape, "")
            dimensions = " x ".join(map(str, shape)) or "()"
            add(table, escaped(name), dimensions, kind or tensor.dtype, byte_size(_bytes([tensor])))
    return table


def _as_restored(tensor: TensorRecord) -> tuple[str, tuple[int, ...], str]:
    """Name and shape of what a tensor of a delta stands for, and as what it is stored if that is not its type."""
    if not tensor.name.startswith(QUANTISED_PREFIX):
        return tensor.name, tensor.shape, ""
    name = tensor.name.removeprefix(QUANTISED_PREFIX)
    if tensor.dtype != "uint8" or tensor.shape[-1:] < (PARAMETER_BYTES,):
        return name, tensor.shape, f"float32 as {tensor.dtype}"
    return name, (*tensor.shape[:-1], tensor.shape[-1] - PARAMETER_BYTES), "float32 in 8 bits"


def config_text(checkpoint: Checkpoint) -> str:
    """The configuration as YAML, in ASCII.

    Raises:
        CheckpointError: the checkpoint has none.
    """
    config = metadata_of(checkpoint, "config")
    if not isinstance(config, dict):
        raise CheckpointError(checkpoint.path, "holds no configuration", hint="see the run's config.yaml")
    return yaml.dump(config, Dumper=Dumper, sort_keys=False, allow_unicode=False, width=120, default_flow_style=None)


def is_table(name: str) -> bool:
    """Whether a tensor is the weights of a table."""
    return name.startswith("tables.") and name.endswith(".weight")


def is_weight(name: str) -> bool:
    """Whether a tensor is part of the model, not of what trains it."""
    if name.startswith("tables."):
        return is_table(name)
    return ".optimizer." not in name and not name.startswith("average.")


def _bytes(tensors: Iterable[TensorRecord]) -> int:
    return sum(tensor.bytes for tensor in tensors)
