"""Whether an output is begun, gone on with or done already, decided before anything is computed."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

from dlrm.config.predict import PredictConfig
from dlrm.errors import DataError
from dlrm.files import write_json
from dlrm.format import escaped
from dlrm.inference.predict.inputs import Input
from dlrm.inference.predict.work import WorkFolder, identity, read_json

VERSION = 1
"""Of what is in the work folder."""


def state_of(config: PredictConfig, checksum: str, inputs: Sequence[Input]) -> dict[str, Any]:
    """What shapes the bytes of the output.

    Args:
        config: as the user gave it.
        checksum: of the export's manifest.
        inputs: the files.
    """
    shaping = ("labels", "split", "carry", "logits", "bad_rows", "compiled")
    options = config.model_dump(mode="json", include=set(shaping))
    stamps = [item.stamp for item in inputs]
    return {"version": VERSION, "export": checksum, "options": options, "inputs": stamps}


def earlier_rows_per_block(work: WorkFolder) -> int | None:
    """As the output was begun with; a job that goes on does so with the same."""
    state = read_json(work.state)
    rows = state.get("chunk_rows") if isinstance(state, dict) else None
    return rows if isinstance(rows, int) and rows > 0 else None


def begin(work: WorkFolder, state: Mapping[str, Any], chunk_rows: int, *, overwrite: bool) -> int | None:
    """Begin, or go on with what was interrupted; the lock is held.

    Args:
        work: of the output.
        state: what it is to be made from and with.
        chunk_rows: rows of a block, of an output that is begun.
        overwrite: whether to start over where something else was begun, and to replace a finished output.

    Returns:
        Rows of a block, about; None if the output is whole already.

    Raises:
        DataError: something else was begun; the output is there.
    """
    text = json.loads(json.dumps(state))
    if _is_whole(work, text):
        return None
    earlier, rows = read_json(work.state), earlier_rows_per_block(work) or chunk_rows
    if isinstance(earlier, dict) and work.has_parts:  # one that has done nothing yet counts for nothing
        recorded = _without_bad_rows({key: value for key, value in earlier.items() if key != "chunk_rows"}, text)
        if recorded == text:
            _check_absent(work.output, overwrite=overwrite)
            write_json(work.state, {**text, "chunk_rows": rows})
            return rows
        if not overwrite:
            hint = f"remove {work.path} or set overwrite to true to start over, or choose another output"
            raise DataError(str(work.output), f"was begun with {difference(recorded, text)}", hint=hint)
    _check_absent(work.output, overwrite=overwrite)
    work.clear()
    write_json(work.state, {**text, "chunk_rows": chunk_rows})
    return chunk_rows


def note_whole(work: WorkFolder, file: BinaryIO, state: Mapping[str, Any]) -> None:
    """Note by what an output is known that is whole and has only to get its name."""
    file.flush()
    os.fsync(file.fileno())
    write_json(work.finished, {"file": identity(file.fileno()), "state": state})


def _is_whole(work: WorkFolder, state: Mapping[str, Any]) -> bool:
    noted = read_json(work.finished)
    if not isinstance(noted, dict) or noted.get("state") != state:
        return False
    return work.output.exists() and noted.get("file") == identity(work.output)


def _without_bad_rows(recorded: dict[str, Any], now: Mapping[str, Any]) -> dict[str, Any]:
    """Skipping bad rows after all changes nothing of what is done: that had none, or the job had ended there."""
    options = recorded.get("options")
    if now["options"]["bad_rows"] == "skip" and isinstance(options, dict):
        return {**recorded, "options": {**options, "bad_rows": "skip"}}
    return recorded


def _check_absent(output: Path, *, overwrite: bool) -> None:
    if output.exists() and not overwrite:
        hint = "set overwrite to true to replace it, or choose another output"
        raise DataError(str(output), "is there already", hint=hint)


def difference(before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """What differs between two states, in words."""
    if before.get("version") != now["version"]:
        return "another version of this program"
    if before.get("export") != now["export"]:
        return "another export"
    if before.get("options") != now["options"]:
        options = before.get("options", {})
        differing = [key for key, value in sorted(now["options"].items()) if options.get(key) != value]
        shown = [f"{key}: {json.dumps(options.get(key))} -> {json.dumps(now['options'][key])}" for key in differing]
        return f"other options ({', '.join(shown)})"
    old, new = before.get("inputs", []), now["inputs"]
    paths = [item.get("path") for item in old], [item["path"] for item in new]
    if sorted(paths[0]) != sorted(paths[1]):
        gone = [path for path in paths[0] if path not in paths[1]]
        added = [path for path in paths[1] if path not in paths[0]]
        said = [f"{escaped(path)} is gone" for path in gone[:2]] + [f"{escaped(path)} is new" for path in added[:2]]
        return f"other inputs ({', '.join(said) or 'more or fewer times'})"
    if paths[0] != paths[1]:
        return "its inputs in another order"
    changed = next(item["path"] for item, other in zip(new, old, strict=True) if item != other)
    return f"another input: {escaped(changed)} was modified since"
