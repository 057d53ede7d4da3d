"""How raw rows became the values and ids of a data set, for rows that are not in it, and for other data sets' tables."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import numpy as np
import numpy.typing as npt
from pydantic import ConfigDict, Field, ValidationError

from dlrm.config.base import PositiveInt, Section
from dlrm.config.data import CriteoTsvData, DataConfig, PackedData
from dlrm.config.data.raw import HashedCategories
from dlrm.config.describe import flatten
from dlrm.config.prepare import ContiguousVocabulary, FixedDense
from dlrm.data.packed.manifest import MANIFEST_NAME, RESTORE, FileRecord, Manifest
from dlrm.data.packed.naming import read_manifest
from dlrm.data.packed.remote import fetch_folder, is_remote
from dlrm.data.packed.write import sha256_of
from dlrm.data.raw.encoding import RawEncoding, TableDense, table_rows
from dlrm.data.raw.log_table import log_table
from dlrm.data.raw.vocabulary import MISSING_ID, NO_ID, Categories, HashedIds, Vocabulary, reserved_ids
from dlrm.data.source import Source
from dlrm.errors import ConfigError, ConfigProblem, DataError

UInt32s = npt.NDArray[np.uint32]


class Parameters(Section):
    """Those of the recorded parameters that a row's values depend on."""

    model_config = ConfigDict(extra="ignore")

    num_dense: PositiveInt
    num_sparse: PositiveInt
    categories: Annotated[ContiguousVocabulary | HashedCategories, Field(discriminator="kind")]
    dense: FixedDense


def recorded_parameters(manifest: Manifest, folder: str) -> Parameters | None:
    """Those of ``preprocess``, if it has written the data set.

    Raises:
        DataError: what is recorded are none.
    """
    recorded = manifest.preprocessing
    if "command" in recorded or "parameters" not in recorded:
        return None
    try:
        return Parameters.model_validate(recorded["parameters"])
    except ValidationError as error:
        detail = error.errors(include_url=False)[0]
        where = ".".join(map(str, ("preprocessing.parameters", *detail["loc"])))
        raise DataError(str(Path(folder, MANIFEST_NAME)), f"{where}: {detail['msg']}", hint=RESTORE) from None


def adopted_parameters(folder: str, manifest: Manifest | None, given: Section, *, key: str) -> Parameters:
    """Those of a data set by whose vocabularies other rows are to be encoded.

    Args:
        folder: of the data set.
        manifest: its dataset.json, if there is one.
        given: the options of who encodes; what of them the data set decides must not be said otherwise.
        key: of the option that names the folder.

    Raises:
        ConfigError: ``preprocess`` did not write it, it has no ids for what it has not seen, or options say otherwise.
    """
    parameters = recorded_parameters(manifest, folder) if manifest is not None else None
    if parameters is None:
        message = f"{folder} was not written by preprocess: there is no vocabulary, nor how dense values were made"
        raise ConfigError.at(key, message)
    if isinstance(parameters.categories, ContiguousVocabulary) and parameters.categories.reserved == "mlperf":
        message = (
            f"{folder} was made with categories.reserved mlperf, which has no id for categories that it has not seen"
        )
        raise ConfigError.at(key, message)
    prefix = key.rpartition(".")[0]
    problems = [
        ConfigProblem(
            f"{prefix}.{name}" if prefix else name,
            "",
            f"is decided by {folder} ({key}), which has another: leave it out",
        )
        for name in _differences(parameters, given)
    ]
    if problems:
        raise ConfigError(problems)
    return parameters


def _differences(parameters: Parameters, given: Section) -> list[str]:
    """Dotted options that were given and are not as recorded."""
    names = given.model_fields_set & Parameters.model_fields.keys()
    asked = flatten(given.model_dump(mode="json", include=names, exclude_unset=True))
    there = flatten(parameters.model_dump(mode="json"))
    return sorted(name for name, value in asked.items() if there.get(name) != value)


def encoding_of_data(config: DataConfig, train: Source | None = None) -> RawEncoding | None:
    """How raw rows became the values and ids of a data set; None where the data do not say.

    Args:
        config: the section ``data``.
        train: its training samples, if they are there; raw files are read for it otherwise.

    Raises:
        DataError: the data, or a vocabulary of theirs, are missing or damaged.
    """
    if isinstance(config, CriteoTsvData):
        from dlrm.data.raw.criteo_tsv import CriteoTsvSource, criteo_tsv_dataset  # which takes vocabularies from here

        source = criteo_tsv_dataset(config).train if train is None else train
        assert isinstance(source, CriteoTsvSource)
        return source.encoding
    if not isinstance(config, PackedData):
        return None
    folder, manifest = _opened(config)
    return None if manifest is None else recorded_encoding(manifest, folder)


def categories_of_data(config: DataConfig, train: Source | None = None) -> Mapping[str, Categories] | None:
    """By column how its values became ids, of data sets that ``pack`` has written as well; None where they do not say.

    Args and errors: as :func:`encoding_of_data`.
    """
    encoding = encoding_of_data(config, train)
    if encoding is not None:
        categories = [*encoding.categories.values(), *encoding.buckets]
        return {feature.name: one for feature, one in zip(encoding.sparse, categories, strict=True)}
    if not isinstance(config, PackedData):
        return None
    folder, manifest = _opened(config)
    if manifest is None or manifest.preprocessing.get("command") != "pack":
        return None
    names = [record.name for record in manifest.sparse]
    return {name: Vocabulary(_values(manifest, Path(folder), name), None) for name in names}


def _opened(config: PackedData) -> tuple[str, Manifest | None]:
    """Where a data set's vocabularies are on this machine, and its dataset.json, if it has one."""
    folder = config.path
    if is_remote(folder):
        folder = fetch_folder(folder, config.cache_dir, (), vocabularies=True)
    folder = os.path.expanduser(folder)
    return folder, read_manifest(folder)


def recorded_encoding(manifest: Manifest, folder: str) -> RawEncoding | None:
    """What dataset.json and the vocabularies say of how raw rows became values and ids.

    Args:
        manifest: of the data set.
        folder: where its vocabularies are.

    Returns:
        The encoding, by which ids and dense values are those of the data set, bit for bit; None where ``preprocess`` has
        not written it.

    Raises:
        DataError: the recorded parameters are none, or contradict the columns; a vocabulary is missing or damaged.
    """
    path = str(Path(folder, MANIFEST_NAME))
    parameters = recorded_parameters(manifest, folder)
    if parameters is None:
        return None
    dense_names = tuple(f"int_{n}" for n in range(parameters.num_dense))
    categories = _categories(parameters, manifest, Path(folder))
    dense = parameters.dense
    encoding = RawEncoding(dense_names, TableDense(log_table(dense.minimum, dense.shift, dense.missing)), categories)
    sizes = [(record.name, record.rows) for record in manifest.sparse]
    if manifest.dense != dense_names or sizes != [(feature.name, feature.rows) for feature in encoding.sparse]:
        raise DataError(path, "its columns are not those of preprocessing.parameters", hint=RESTORE)
    return encoding


def recorded_reserved_ids(manifest: Manifest, folder: str) -> dict[str, frozenset[int]]:
    """By feature the ids of a missing and of an unseen category, where dataset.json says so; reads no whole vocabulary.

    Args:
        manifest: of the data set.
        folder: where its vocabularies are.

    Raises:
        DataError: the recorded parameters are none; a vocabulary that is needed is missing or damaged.
    """
    parameters = recorded_parameters(manifest, folder)
    if parameters is None:
        return {}
    names, chosen = [f"cat_{f}" for f in range(parameters.num_sparse)], parameters.categories
    if isinstance(chosen, HashedCategories):
        return dict.fromkeys(names, frozenset({MISSING_ID}))
    found = {}
    for name in names:
        # Which ids these are depends on the lowest value at most.
        lowest_K = np.empty(0, np.uint32) if chosen.reserved == "separate" else _lowest(manifest, Path(folder), name)
        reserved = reserved_ids(lowest_K, chosen.reserved)
        found[name] = frozenset({reserved.missing, reserved.absent} - {NO_ID})
    return found


def _categories(parameters: Parameters, manifest: Manifest, folder: Path) -> dict[str, Categories]:
    names = [f"cat_{f}" for f in range(parameters.num_sparse)]
    chosen = parameters.categories
    if isinstance(chosen, HashedCategories):
        rows = table_rows(chosen, len(names))
        if len(rows) != len(names):
            path = str(folder / MANIFEST_NAME)
            raise DataError(path, f"categories.rows has {len(rows)} entries for {len(names)} columns", hint=RESTORE)
        return {name: HashedIds(name, size) for name, size in zip(names, rows, strict=True)}
    found: dict[str, Categories] = {}
    for name in names:
        values_K = _values(manifest, folder, name)
        reserved = reserved_ids(values_K, chosen.reserved)
        found[name] = Vocabulary(values_K, None, reserved.missing, reserved.absent, reserved.first)
    return found


def _lowest(manifest: Manifest, folder: Path, name: str) -> UInt32s:
    """The lowest value of a vocabulary, uint32 (1,) or, of an empty one, (0,); the others are not looked at."""
    path = folder / _record(manifest, folder, name).name
    try:
        values_K = np.load(path, mmap_mode="r", allow_pickle=False)
    except OSError as error:
        raise DataError(str(path), f"cannot be read ({error.strerror})", hint=RESTORE) from None
    except ValueError:
        raise DataError(str(path), "is no vocabulary", hint=RESTORE) from None
    if not isinstance(values_K, np.ndarray) or values_K.dtype != np.uint32 or values_K.ndim != 1:
        raise DataError(str(path), "is no vocabulary: not ascending 32-bit values", hint=RESTORE)
    return np.array(values_K[:1])


def _record(manifest: Manifest, folder: Path, name: str) -> FileRecord:
    record = manifest.vocabularies.get(name)
    if record is None:
        raise DataError(str(folder / MANIFEST_NAME), f"lists no vocabulary of {name}", hint=RESTORE)
    return record


def _values(manifest: Manifest, folder: Path, name: str) -> UInt32s:
    """A vocabulary: uint32 (K,), ascending."""
    record = _record(manifest, folder, name)
    path = folder / record.name
    try:
        if path.stat().st_size != record.bytes or sha256_of(path) != record.sha256:
            raise DataError(str(path), "is not the vocabulary that dataset.json lists (checksum)", hint=RESTORE)
        values_K: UInt32s = np.load(path, allow_pickle=False)
    except OSError as error:
        problem = f"cannot be read ({error.strerror})"
        raise DataError(str(path), problem, hint="new rows need the data set's vocabularies: restore it") from None
    except ValueError:
        raise DataError(str(path), "is no vocabulary", hint=RESTORE) from None
    if values_K.dtype != np.uint32 or values_K.ndim != 1 or (values_K[1:] <= values_K[:-1]).any():
        raise DataError(str(path), "is no vocabulary: not ascending 32-bit values", hint=RESTORE)
    return values_K
