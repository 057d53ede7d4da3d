"""Loading what a checkpoint holds into an engine that was built for it: neither a run nor a trainer is needed.

checkpoint = open_checkpoint(path)
engine = build_engine(saved_config(checkpoint), schema, world)
load_state(engine, checkpoint, world.collectives)  # or, to predict with it, load_weights
"""

from __future__ import annotations

from dataclasses import replace

import torch
from pydantic import ValidationError

from dlrm.checkpoint.load import load_tensors
from dlrm.checkpoint.manifest import first_fault
from dlrm.checkpoint.reader import Reader, open_reader
from dlrm.checkpoint.resume import require_sound
from dlrm.checkpoint.soundness import fault_in_state
from dlrm.checkpoint.stored import Checkpoint
from dlrm.checkpoint.tensors import GlobalTensor
from dlrm.config import Config
from dlrm.config.describe import defaults
from dlrm.config.layers import Layer, merge
from dlrm.distributed.collectives import Collectives, together
from dlrm.errors import CheckpointError
from dlrm.train.checkpointing.state import AVERAGE_PREFIX, AVERAGE_STEPS, after_load, engine_tensors
from dlrm.train.engine import Engine


def load_state(engine: Engine, checkpoint: Checkpoint, collectives: Collectives, *, strict: bool = True) -> list[str]:
    """Write a checkpoint's weights, optimizer state and averages into an engine; collective.

    Args:
        engine: whatever its world and plan.
        checkpoint: an open one, full or a delta.
        collectives: of the engine's ranks.
        strict: refuse a checkpoint that does not fit; otherwise what does not fit is left as it is.

    Returns:
        What was left, in words; empty if ``strict``.

    Raises:
        CheckpointMismatchError: it does not fit; all differences are in it, and nothing was changed.
        DivergedStateError: training had diverged when it was saved.
        HalfLoadedError: storage failed in the middle.
        CheckpointError: it is damaged; nothing was changed.
    """
    tensors = engine_tensors(engine)
    left = load_tensors(checkpoint, tensors, strict=strict, collectives=collectives)
    require_sound(checkpoint, tensors, collectives, fault_in_state)
    after_load(engine)
    return left


def has_average(reader: Reader) -> bool:
    """Whether the run whose checkpoint it reads kept averaged weights (``train.average_decay``)."""
    return AVERAGE_STEPS in reader.tensors


def load_weights(engine: Engine, checkpoint: Checkpoint, collectives: Collectives, *, averaged: bool) -> None:
    """Write a checkpoint's weights, and nothing of what trained them, into an engine; collective.

    Args:
        engine: whatever its world, plan and optimizers; one that keeps no averages.
        checkpoint: an open one, full or a delta.
        collectives: of the engine's ranks.
        averaged: take the averages in the place of the weights they are of; see :func:`has_average`.

    Raises:
        CheckpointMismatchError: it does not fit; all differences are in it, and nothing was changed.
        DivergedStateError, HalfLoadedError, CheckpointError: as :func:`load_state`.
    """
    tensors = [tensor for tensor in engine_tensors(engine) if ".optimizer." not in tensor.name]
    aside: list[GlobalTensor] = []
    if averaged:
        if together(collectives, lambda: len(open_reader(checkpoint).members)) > 1:
            # The averages of rows that a delta does not hold are made again from their weights.
            aside = [_aside(tensor) for tensor in tensors if tensor.name.startswith("tables.")]
        tensors = [
            replace(tensor, name=f"{AVERAGE_PREFIX}{tensor.name}") if tensor.dtype.is_floating_point else tensor
            for tensor in tensors
        ]
    load_tensors(checkpoint, [*tensors, *aside], part=True, collectives=collectives)
    require_sound(checkpoint, tensors, collectives, fault_in_state)
    after_load(engine)


def _aside(tensor: GlobalTensor) -> GlobalTensor:
    """The same tensor in other memory."""
    shards = tuple(replace(shard, tensor=torch.empty_like(shard.tensor)) for shard in tensor.shards)
    return replace(tensor, shards=shards)


def saved_config(checkpoint: Checkpoint) -> Config:
    """The configuration that a checkpoint was trained with; options that are younger than it have their defaults.

    Raises:
        CheckpointError: it holds none, or one that this program does not know.
    """
    found = checkpoint.metadata.get("config")
    if not isinstance(found, dict):
        raise CheckpointError(checkpoint.path, "holds no configuration", hint="use one that training has saved")
    try:
        return Config.model_validate(merge(Layer(defaults(Config)), Layer(found)).values)
    except ValidationError as error:
        fault, hint = first_fault(error, "facts.config"), "use the program that wrote it"
        raise CheckpointError(checkpoint.path, fault, hint=hint) from None
