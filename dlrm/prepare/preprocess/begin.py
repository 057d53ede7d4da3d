"""Whether a job begins, goes on or is done already, decided before anything is written."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dlrm.config.prepare import PreprocessConfig
from dlrm.data.packed.manifest import MANIFEST_NAME, SUFFIXES, Manifest, parse_manifest
from dlrm.data.packed.write import UNFINISHED
from dlrm.errors import ConfigError, DataError
from dlrm.prepare.preprocess.setting import Source
from dlrm.prepare.preprocess.sources import SourceFile
from dlrm.prepare.preprocess.work_folder import WorkFolder, read_json, write_json

_START_OVER = "set overwrite to true to start over, or choose another output"
_ABSENT = "(none)"


@dataclass(frozen=True)
class State:
    """What an output is made from and with.

    Attributes:
        parameters: all that shape the bytes of the output.
        sources: name, bytes and time of modification of each raw file.
        chunk_bytes, bucket_rows: which intermediate files there are; they do not shape the output.
    """

    parameters: dict[str, Any]
    sources: list[dict[str, Any]]
    chunk_bytes: int
    bucket_rows: int


def parameters(config: PreprocessConfig) -> dict[str, Any]:
    """The options that shape the bytes of the output."""
    shaping = {"num_dense", "num_sparse", "parts", "split", "categories", "dense", "shuffle", "bad_rows"}
    return config.model_dump(mode="json", include=shaping | ({"seed"} if config.shuffle else set()))


def source_records(sources: Sequence[SourceFile]) -> list[dict[str, Any]]:
    """The raw files as the manifest lists them."""
    return [{"name": os.path.basename(source.path), "bytes": source.bytes} for source in sources]


def finished_output(config: PreprocessConfig, sources: Sequence[Source], output: Path) -> Manifest | None:
    """The manifest of an output that is complete and what the job would make; None if there is work to do.

    There always is where the job is to start over.

    Raises:
        ConfigError: a complete output was made with other parameters.
        DataError: it was made from other sources, a file of it is gone, or its manifest is none.
    """
    path = output / MANIFEST_NAME
    if config.overwrite or not path.exists():
        return None
    manifest = parse_manifest(path.read_bytes(), str(path))
    made = manifest.preprocessing
    made_from = [{"name": source["name"], "bytes": source["bytes"]} for source in made.get("sources", [])]
    _check_same_parameters(made.get("parameters", {}), parameters(config), f"{output} was made with")
    newest_ns = path.stat().st_mtime_ns
    found = source_records([source.file for source in sources])
    for source, record in zip(sources, found, strict=True):
        if source.mtime_ns > newest_ns:
            record["changed"] = "after the data set was made"
    _check_same_sources(made_from, found, str(output))
    _check_whole(manifest, output)
    return manifest


def _check_whole(manifest: Manifest, folder: Path) -> None:
    """Make sure that all files are still there, as far as their sizes tell."""
    for record in (*manifest.vocabularies.values(), *(file for part in manifest.parts for file in part.files.values())):
        path = folder / record.name
        size = path.stat().st_size if path.exists() else None
        if size != record.bytes:
            problem = "is gone" if size is None else f"has {size} bytes, not {record.bytes}"
            raise DataError(str(path), problem, mend=f"restore it, or {_START_OVER}")


def begin(config: PreprocessConfig, sources: Sequence[Source], work: WorkFolder, chunk_bytes: int) -> State:
    """Begin a job, or go on with one that was interrupted. The lock is held.

    Raises:
        ConfigError, DataError: it was begun with other parameters or sources (unless they may be overwritten), or the
            folder holds a data set that this command did not make.
    """
    records = source_records([source.file for source in sources])
    stamped = [{**record, "mtime_ns": source.mtime_ns} for record, source in zip(records, sources, strict=True)]
    state = State(parameters(config), stamped, chunk_bytes, config.bucket_rows)
    try:
        begun = _begun(config, work, state)
    except (ConfigError, DataError):
        if not config.overwrite:
            raise
        begun = None
    if begun is None:
        _clear(work)
        write_json(work.state, vars(state))
    return begun or state


def _begun(config: PreprocessConfig, work: WorkFolder, state: State) -> State | None:
    if config.overwrite and (work.output / MANIFEST_NAME).exists():  # finished, and its intermediate files were kept
        return None
    if not work.state.exists():
        strangers = [*_data_files(work.output), *work.vocabularies()]
        if strangers:
            problem = f"holds {strangers[0].name} already, which this job did not write"
            raise DataError(str(work.output), problem, mend=_START_OVER)
        return None
    begun = State(**read_json(work.state))
    _check_same_parameters(begun.parameters, state.parameters, f"{work.output} was begun with")
    _check_same_sources(begun.sources, state.sources, str(work.output))
    return begun


def _clear(work: WorkFolder) -> None:
    """Remove what another job has left, the manifest first: without it nobody takes the rest for a data set."""
    for path in (work.output / MANIFEST_NAME, *_data_files(work.output)):
        path.unlink(missing_ok=True)
    work.clear()
    work.clear_vocabularies()


def _data_files(output: Path) -> list[Path]:
    """Files that a data set's may be mistaken for, finished or not."""
    endings = tuple(suffix + end for suffix in SUFFIXES.values() for end in ("", UNFINISHED))
    names = (MANIFEST_NAME, *(MANIFEST_NAME + UNFINISHED,))
    return sorted(path for path in output.iterdir() if path.name.endswith(endings) or path.name in names)


def _check_same_parameters(old: Mapping[str, Any], new: Mapping[str, Any], what: str) -> None:
    before, after = _flat(old), _flat(new)
    differences = [
        f"{key}: {_shown(before, key)} -> {_shown(after, key)}"
        for key in sorted(before.keys() | after.keys())
        if before.get(key) != after.get(key)
    ]
    if differences:
        raise ConfigError.at("output", f"{what} other parameters ({', '.join(differences)}); {_START_OVER}")


def _shown(flat: Mapping[str, Any], key: str) -> str:
    return json.dumps(flat[key]) if key in flat else _ABSENT


def _flat(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Dotted keys."""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {prefix + key: value}
    return flat


def _check_same_sources(old: Sequence[Mapping[str, Any]], new: Sequence[Mapping[str, Any]], output: str) -> None:
    before, after = ({record["name"]: record for record in records} for records in (old, new))
    differences = [f"{name} is gone" for name in before if name not in after]
    differences += [f"{name} is new" for name in after if name not in before]
    for name in before.keys() & after.keys():
        if before[name]["bytes"] != after[name]["bytes"]:
            differences.append(f"{name}: {before[name]['bytes']} -> {after[name]['bytes']} bytes")
        elif before[name] != after[name]:
            differences.append(f"{name} was modified")
    if not differences and [record["name"] for record in old] != [record["name"] for record in new]:
        differences = ["another order"]
    if differences:
        problem = f"the sources are not those it was begun with: {', '.join(sorted(differences))}"
        raise DataError(output, problem, mend=_START_OVER)
