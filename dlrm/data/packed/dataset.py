"""The three splits of a packed data set, as the configuration wants them."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

from dlrm.config.data.packed import HashedMultiHot, MlperfMultiHot, PackedData, PartSplit
from dlrm.data.multi_hot.dataset import multi_hot_dataset
from dlrm.data.packed.folder import PackedFolder, open_packed
from dlrm.data.packed.manifest import Manifest
from dlrm.data.packed.source import PackedSource
from dlrm.data.packed.split import Part, ResolvedSplit, resolve_split
from dlrm.data.source import Dataset
from dlrm.errors import ConfigError


def packed_dataset(config: PackedData) -> Dataset:
    """Open a packed data set and divide its rows.

    Raises:
        DataError: something is wrong with the files.
        ConfigError: what is configured does not fit them.
    """
    multi_hot = config.multi_hot
    folder = open_packed(
        config.path,
        rows=config.rows,
        may_be_smaller=config.bad_rows != "error",
        multi_hot=multi_hot.kind == "files",
        weights=config.sample_weights,
        cache_dir=config.cache_dir,
        tasks=config.tasks,
    )
    split = choose_split(folder, config.split)
    source = partial(PackedSource, schema=folder.schema, parts=folder.parts, bad_rows=config.bad_rows)
    dataset = Dataset(
        train=source(f"{config.path} (train)", spans=split.train),
        validation=source(f"{config.path} (validation)", spans=split.validation),
        test=source(f"{config.path} (test)", spans=split.test),
    )
    if folder.manifest is not None and is_shuffled(folder.manifest):
        dataset.train.days_are_mixed = "it was preprocessed with shuffle, which mixes the rows of all training days"
    return multi_hot_dataset(dataset, multi_hot) if isinstance(multi_hot, MlperfMultiHot | HashedMultiHot) else dataset


def is_shuffled(manifest: Manifest) -> bool:
    """Whether ``preprocess`` has shuffled the training rows over their parts."""
    parameters = manifest.preprocessing.get("parameters")
    return isinstance(parameters, Mapping) and parameters.get("shuffle") is True


def choose_split(folder: PackedFolder, config: PartSplit, key: str = "data.split") -> ResolvedSplit:
    """The configured split or, where none is configured, the data set's own or, where it has none, the default.

    Raises:
        ConfigError: an entry that names no part or no rows, rows that are used twice, no rows to train on.
    """
    configured = bool(config.train or config.validation or config.test)
    if folder.manifest is not None and not configured:
        own = folder.manifest.resolved_split
        if any(len(span) for span in own.train):
            return own
        if own.validation or own.test:
            raise ConfigError.at(f"{key}.train", "is empty, in dataset.json too: name parts to train on")
    return resolve_split(config, [Part(part.name, part.rows) for part in folder.parts], key)
