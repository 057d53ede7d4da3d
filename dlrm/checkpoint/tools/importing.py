"""``checkpoint import``: weights of facebookresearch/dlrm's torchrec trainer as a checkpoint of this project."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from dlrm.checkpoint.manifest import Manifest
from dlrm.checkpoint.names import checkpoint_name
from dlrm.checkpoint.paths import local_file, storage_of
from dlrm.checkpoint.save import Destination, abandon, commit, prepare, write_rank
from dlrm.checkpoint.snapshot import view
from dlrm.checkpoint.tensors import GlobalTensor
from dlrm.checkpoint.tools.showing import is_table
from dlrm.checkpoint.tools.state_dict import read_state_dict
from dlrm.checkpoint.tools.tables import terminal
from dlrm.checkpoint.tools.translation import translate
from dlrm.config.checkpoint_commands import ImportConfig
from dlrm.config.describe import to_plain
from dlrm.data.build import build_dataset
from dlrm.errors import CheckpointMismatchError
from dlrm.format import byte_size, counted, escaped

_OWN_OPTIONS = ("state_dict", "output")
_COMMIT_LIMIT_S = 60.0  # there is no other rank to wait for


def run_import(config: ImportConfig) -> None:
    """Read, translate, write, and say what was done.

    Raises:
        CheckpointMismatchError: the file is of another model; all differences are in it.
        CheckpointError: the file cannot be read, the checkpoint is there or cannot be written.
        ConfigError, DataError: the configuration does not fit the data, or there is no data.
    """
    path = local_file(config.state_dict)
    found = read_state_dict(path)
    translated, differences = translate(found, config.model, build_dataset(config.data).schema)
    if differences:
        hint = "use the configuration, and data with the tables, of the model that was saved"
        raise CheckpointMismatchError(escaped(path, 500), differences, hint=hint)
    plain = {name: value for name, value in to_plain(config).items() if name not in _OWN_OPTIONS}
    manifest = write_weights(config.output, translated.weights, import_metadata(path, plain))
    console = terminal()
    number = sum(is_table(name) for name in translated.weights)
    written = f"{escaped(storage_of(config.output)[1], 500)}/{checkpoint_name(0)}"
    lines = [
        f"imported {counted(number, 'table')} and {counted(len(translated.weights) - number, 'other weight')} "
        f"({byte_size(manifest.bytes)}), no optimizer state, into {written}",
        *translated.notes,
        f"train on from it: dlrm_main.py train --config FILE --resume.strict false --resume.checkpoint {written}",
    ]
    for line in lines:
        console.print(line, markup=False, soft_wrap=True)


def import_metadata(path: Path, config: Mapping[str, Any]) -> dict[str, Any]:
    """What the manifest says beside the weights; no position, because these are no training to go on with."""
    return {
        "config": dict(config),
        "plan": [],
        "metrics": {},
        "best": None,
        "reason": f"import of {escaped(path.name)}",
        "ranks": 1,
        "time": time.time(),
        "versions": {"torch": torch.__version__},
    }


def write_weights(folder: str, weights: Mapping[str, torch.Tensor], metadata: dict[str, Any]) -> Manifest:
    """Write the checkpoint of step 0 straight from the weights' memory, which may be a mapped file.

    Args:
        folder: for checkpoints; made if need be.
        weights: whole tensors by name, with at least one dimension.
        metadata: JSON for the manifest.

    Raises:
        CheckpointError: there is one of step 0, or it cannot be written.
    """
    storage, folder = storage_of(folder)
    token = prepare(storage, folder, 0)
    final = f"{folder}/{checkpoint_name(0)}"
    destination = Destination(storage=storage, final=final, step=0, token=token, rank=0, world_size=1)
    try:
        write_rank(destination, view([GlobalTensor.of(name, weight) for name, weight in weights.items()]))
        return commit(destination, metadata, time_limit_s=_COMMIT_LIMIT_S)
    except BaseException:
        abandon(destination)
        raise
