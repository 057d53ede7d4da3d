"""Whether a job begins, goes on or is done already, decided before anything is written."""

from __future__ import annotations

import itertools
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from dlrm.config.describe import flatten
from dlrm.config.prepare import PreprocessConfig
from dlrm.data.packed.manifest import MANIFEST_NAME, Manifest, parse_manifest
from dlrm.data.packed.own import MOVE_AWAY, find_foreign
from dlrm.errors import ConfigError, DataError
from dlrm.files import UNFINISHED
from dlrm.preprocess.fixed_vocabulary import vocabulary_digest
from dlrm.preprocess.job_context import Source, check_room, peak_bytes
from dlrm.preprocess.overwrite import (
    check_replaceable,
    data_set_files,
    manifest_digest,
    note_names,
    own_names,
    remove_data_set,
)
from dlrm.preprocess.row_plan import part_names
from dlrm.preprocess.sources import SourceFile
from dlrm.preprocess.work_folder import Count, WorkFolder, read_json, write_json

_START_OVER = "set overwrite to true to start over, or choose another output"
_ABSENT = "(none)"


@dataclass(frozen=True)
class State:
    """What an output is made from and with.

    Attributes:
        parameters: all that shape the bytes of the output.
        sources: name, bytes and time of modification of each raw file.
        chunk_bytes, bucket_rows: which intermediate files there are; they do not shape the output.
        replaces: by which the data set is known that is to be replaced and still there; None where there is none.
    """

    parameters: dict[str, Any]
    sources: list[dict[str, Any]]
    chunk_bytes: Annotated[int, Field(gt=0, lt=2**63)]
    bucket_rows: Count
    replaces: str | None = None


def parameters(config: PreprocessConfig) -> dict[str, Any]:
    """The options that shape the bytes of the output."""
    shaping = {"num_dense", "num_sparse", "parts", "split", "categories", "dense", "shuffle", "bad_rows"}
    found = config.model_dump(mode="json", include=shaping | ({"seed"} if config.shuffle else set()))
    return found | {"vocabulary_from": vocabulary_digest(config)} if config.vocabulary_from else found


def source_records(sources: Sequence[SourceFile]) -> list[dict[str, Any]]:
    """The raw files as the manifest lists them."""
    return [{"name": os.path.basename(source.path), "bytes": source.bytes} for source in sources]


def finished_output(config: PreprocessConfig, sources: Sequence[Source], output: Path) -> Manifest | None:
    """The manifest of an output that is complete and what the job would make; None if there is work to do.

    There always is where the job is to start over, or goes on doing so.

    Raises:
        ConfigError: a complete output was made with other parameters.
        DataError: it was made from other sources, a file of it is gone, or its manifest is none.
    """
    path = output / MANIFEST_NAME
    if config.overwrite or not path.exists():
        return None
    work = WorkFolder(output)
    earlier = _earlier(work)
    if earlier is not None and _is_being_replaced(work, earlier):
        return None
    manifest = parse_manifest(path.read_bytes(), str(path))
    made = manifest.preprocessing
    sources_made_from, made_with = made.get("sources", []), made.get("parameters", {})
    _check_records(sources_made_from, path)
    if not isinstance(made_with, Mapping):
        raise DataError(str(path), "preprocessing.parameters are no parameters", hint=_START_OVER)
    made_from = [{"name": source["name"], "bytes": source["bytes"]} for source in sources_made_from]
    _check_same_parameters(made_with, parameters(config), f"{output} was made with")
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
            raise DataError(str(path), problem, hint=f"restore it, or {_START_OVER}")


def begin(config: PreprocessConfig, sources: Sequence[Source], work: WorkFolder, chunk_bytes: int) -> State:
    """Begin a job, or go on with one that was interrupted. The lock is held.

    A job that has parsed nothing yet counts for nothing. One that a malformed row has stopped goes on if malformed rows
    are left out from now on: what it has parsed has none.

    Raises:
        ConfigError, DataError: it was begun with other parameters or sources (unless they may be overwritten), or the
            folder holds a data set that the job did not begin, or files that are in the way and not this program's.
    """
    records = source_records([source.file for source in sources])
    stamped = [{**record, "mtime_ns": source.mtime_ns} for record, source in zip(records, sources, strict=True)]
    state = State(parameters(config), stamped, chunk_bytes, config.bucket_rows)
    earlier = begun = None
    try:
        earlier = _earlier(work)
        begun = _begun(config, work, earlier, state)
    except (ConfigError, DataError):
        if not config.overwrite:
            raise
    if begun is None:
        own = check_replaceable(work)
        state = replace(state, replaces=manifest_digest(work.output))
        if state.replaces is not None:
            _check_room_beside(work, config, sources)
        note_names(work, config, part_names(config, sources), own)
        work.clear()
        if state.replaces is None:
            remove_data_set(work)
    else:
        state = replace(begun, parameters=state.parameters)
    if state != begun:
        write_json(work.state, vars(state))
    return state


def _earlier(work: WorkFolder) -> State | None:
    """The job that was begun here, if it has anything to lose."""
    if not work.state.exists():
        return None
    ours, passing = ("lock", work.own_names.name, work.state.name, "token"), (".part", UNFINISHED)
    files = itertools.chain.from_iterable(names for _, _, names in os.walk(work.path))
    if all(name in ours or name.endswith(passing) for name in files):
        return None
    state: State = read_json(work.state, State)
    _check_records(state.sources, work.state)
    return state


def _begun(config: PreprocessConfig, work: WorkFolder, earlier: State | None, state: State) -> State | None:
    if earlier is None:
        strangers = data_set_files(work)
        if strangers:
            foreign = find_foreign(strangers, work.output, own_names(work))
            problem = f"holds {(foreign or strangers[0]).name} already, which this job did not write"
            raise DataError(str(work.output), problem, hint=MOVE_AWAY if foreign else _START_OVER)
        return None
    if config.overwrite and (work.output / MANIFEST_NAME).exists() and not _is_being_replaced(work, earlier):
        return None  # it is finished, and its intermediate files were kept
    # Skipping malformed rows after all changes nothing of what was parsed: that had none, or the job had ended there.
    same = {"bad_rows": "skip"} if state.parameters["bad_rows"] == "skip" else {}
    _check_same_parameters({**earlier.parameters, **same}, state.parameters, f"{work.output} was begun with")
    _check_same_sources(earlier.sources, state.sources, str(work.output))
    return earlier


def _is_being_replaced(work: WorkFolder, earlier: State) -> bool:
    """Whether the finished data set is the one that this job, which is not finished, was told to overwrite."""
    return earlier.replaces == manifest_digest(work.output)


def _check_room_beside(work: WorkFolder, config: PreprocessConfig, sources: Sequence[Source]) -> None:
    """Estimate whether all rows can be parsed while the old data set is there."""
    old = sum(path.stat().st_blocks * 512 for path in data_set_files(work))
    parsed = peak_bytes(
        config.model_copy(update={"shuffle": False}), [source.extent.rows for source in sources], ranks=1
    )
    try:
        check_room(work.output, parsed + old)
    except DataError as error:
        problem = f"{error.problem}, beside the data set that is to be replaced"
        raise DataError(error.path, problem, hint=f"{error.hint}, or remove the old data set") from None


def _check_same_parameters(old: Mapping[str, Any], new: Mapping[str, Any], what: str) -> None:
    before, after = flatten(old), flatten(new)
    differences = [
        f"{key}: {_shown(before, key)} -> {_shown(after, key)}"
        for key in sorted(before.keys() | after.keys())
        if before.get(key) != after.get(key)
    ]
    if differences:
        raise ConfigError.at("output", f"{what} other parameters ({', '.join(differences)}); {_START_OVER}")


def _check_records(sources: Any, path: Path) -> None:
    """See that what should list raw files does."""
    known = isinstance(sources, Sequence) and all(
        isinstance(source, Mapping) and isinstance(source.get("name"), str) and type(source.get("bytes")) is int
        for source in sources
    )
    if not known or not all(source["name"].isprintable() for source in sources):
        raise DataError(str(path), "does not say which raw files it was made from", hint=_START_OVER)


def _shown(flat: Mapping[str, Any], key: str) -> str:
    return json.dumps(flat[key]) if key in flat else _ABSENT


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
        raise DataError(output, problem, hint=_START_OVER)
