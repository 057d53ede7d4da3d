"""New raw files with the ids and dense values of a data set that is there: nothing is fitted on them."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

from dlrm.config.prepare import ContiguousVocabulary, PreprocessConfig
from dlrm.data.packed.manifest import Manifest
from dlrm.data.packed.naming import read_manifest
from dlrm.data.packed.raw_encoding import adopted_parameters, recorded_encoding
from dlrm.data.packed.split import Part, ResolvedSplit, Span, resolve_split
from dlrm.errors import ConfigError
from dlrm.files import written_beside
from dlrm.preprocess.job_context import JobContext

KEY = "vocabulary_from"


def adopt(config: PreprocessConfig) -> PreprocessConfig:
    """The configuration with what the data set decides that it names, if it names one.

    Raises:
        ConfigError: the data set does not do, or options say otherwise.
        DataError: there is none.
    """
    folder = config.vocabulary_from
    if not folder:
        return config
    if Path(folder).expanduser().resolve() == Path(config.output).expanduser().resolve():
        raise ConfigError.at(KEY, f"is {folder}, the output: choose another output")
    parameters = adopted_parameters(folder, read_manifest(folder), config, key=KEY)
    return config.model_copy(update={name: getattr(parameters, name) for name in type(parameters).model_fields})


def check_vocabularies(config: PreprocessConfig) -> None:
    """Read all vocabularies of the data set, against their checksums.

    Raises:
        DataError: one is missing or damaged.
    """
    if config.vocabulary_from:
        recorded_encoding(_manifest(config), config.vocabulary_from)


def vocabulary_digest(config: PreprocessConfig) -> str:
    """By which vocabularies are known."""
    records = {name: record.sha256 for name, record in _manifest(config).vocabularies.items()}
    return hashlib.sha256(json.dumps(records, sort_keys=True).encode()).hexdigest()


def copy_vocabularies(job: JobContext) -> None:
    """Copy this rank's share of the vocabularies, as far as they are not there."""
    if not isinstance(job.config.categories, ContiguousVocabulary):
        return
    manifest = _manifest(job.config)
    records = [manifest.vocabularies[f"cat_{column}"] for column in range(job.config.num_sparse)]
    job.work.vocabulary(0).parent.mkdir(exist_ok=True)
    for column in job.own([record.bytes for record in records]):
        target = job.work.vocabulary(column)
        if not target.exists():
            source = Path(job.config.vocabulary_from, records[column].name)
            with open(source, "rb") as there, written_beside(target) as file:
                shutil.copyfileobj(there, file)


def split_of(config: PreprocessConfig, parts: list[Part]) -> ResolvedSplit:
    """Which rows are for what; all are for training where nothing is fitted on these and nothing else is said.

    Raises:
        ConfigError: the split does not fit the parts.
    """
    split = config.split
    if config.vocabulary_from and not split.train:
        return ResolvedSplit(train=tuple(Span(part.name, 0, part.rows) for part in parts))
    return resolve_split(split, parts, "split")


def _manifest(config: PreprocessConfig) -> Manifest:
    manifest = read_manifest(config.vocabulary_from)
    assert manifest is not None  # adopt() has seen it
    return manifest
