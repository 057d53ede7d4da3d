"""The data that a checkpoint was trained on, of which an export takes its columns and its preprocessing."""

from __future__ import annotations

from dataclasses import replace

from dlrm.checkpoint.stored import Checkpoint
from dlrm.config import Config
from dlrm.config.data import ParquetData
from dlrm.data.build import build_dataset
from dlrm.data.source import Dataset
from dlrm.errors import ConfigError, DataError
from dlrm.format import escaped
from dlrm.train.checkpointing.train_state import TrainingData, TrainState, data_difference

_NAME_THEM = "if they were moved, name them with --data.path NEW"
_NEEDED = f"an export takes its columns from the data; {_NAME_THEM}"


def dataset_trained_on(trained: Config, checkpoint: Checkpoint) -> Dataset:
    """The data set of a configuration, seen to be the one that a checkpoint was trained on.

    Args:
        trained: the checkpoint's configuration, perhaps with another place of the data.
        checkpoint: says what the files of the data were.

    Raises:
        DataError: they are missing, or others than they were.
        ConfigError: the configuration does not fit them.
        CheckpointError: what it says of them is not to be understood.
    """
    try:
        dataset = build_dataset(trained.data)
        files = dataset.train.fingerprint()
    except DataError as error:
        hint = "; ".join(filter(None, (error.hint, _NEEDED)))
        raise DataError(error.path, error.problem, row=error.row, column=error.column, hint=hint) from None
    except ConfigError as error:
        raise ConfigError([replace(found, message=f"{found.message}; {_NEEDED}") for found in error.problems]) from None
    if weighted := [feature.name for feature in dataset.schema.sparse if feature.weights]:
        message = f"gives weights to the ids of {escaped(weighted[0])}, which an export cannot take: train without them"
        raise ConfigError.at("data.id_weights", message)
    if isinstance(trained.data, ParquetData) and (texts := trained.data.vocabulary.columns):
        message = (
            f"names {escaped(texts[0])}, and an export takes ids, not what they were made of: encode it before training"
        )
        raise ConfigError.at("data.vocabulary.columns", message)
    saved = TrainState.of(checkpoint)
    if saved is not None:
        samples, before = dataset.train.num_samples, saved.order.get("data.samples", dataset.train.num_samples)
        changed = data_difference(saved, trained, TrainingData(samples, files))
        if samples != before:
            changed = changed or f"there are {samples:,} samples and were {before}"
        if changed:
            problem = f"are not the data that the checkpoint was trained on: {changed}"
            raise DataError(dataset.train.name, problem, hint=f"restore those; {_NAME_THEM}")
    return dataset
