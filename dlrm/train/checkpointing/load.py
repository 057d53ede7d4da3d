"""Loading what a checkpoint holds into an engine that was built for it: neither a run nor a trainer is needed.

checkpoint = open_checkpoint(path)
engine = build_engine(saved_config(checkpoint), schema, world)
load_state(engine, checkpoint, world.collectives)
"""

from __future__ import annotations

from pydantic import ValidationError

from dlrm.checkpoint.load import load_tensors
from dlrm.checkpoint.manifest import first_fault
from dlrm.checkpoint.resume import require_sound
from dlrm.checkpoint.soundness import fault_in_state
from dlrm.checkpoint.stored import Checkpoint
from dlrm.config import Config
from dlrm.config.describe import defaults
from dlrm.config.layers import Layer, merge
from dlrm.distributed.collectives import Collectives
from dlrm.errors import CheckpointError
from dlrm.train.checkpointing.state import after_load, engine_tensors
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
