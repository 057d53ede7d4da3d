"""The checkpoint that is to be scored, and the configuration that results from it: the same on every rank."""

from __future__ import annotations

from dataclasses import dataclass

from dlrm.checkpoint.paths import open_one, storage_of
from dlrm.checkpoint.stored import Checkpoint, open_checkpoint
from dlrm.config.describe import to_plain
from dlrm.config.evaluate import EvaluateConfig, EvaluateRequest
from dlrm.distributed.collectives import Collectives, from_rank_0, together
from dlrm.errors import CheckpointError
from dlrm.train.checkpointing.load import saved_config


@dataclass(frozen=True)
class Found:
    """What a request stands for.

    Attributes:
        checkpoint: an open one; config: its own, with what was asked for in its place.
        passed_over: why newer checkpoints in the same folder were not taken.
    """

    checkpoint: Checkpoint
    config: EvaluateConfig
    passed_over: tuple[str, ...] = ()


def find(request: EvaluateRequest) -> Found:
    """What this rank finds; a run that goes on may save or remove checkpoints meanwhile.

    Raises:
        CheckpointError: there is no checkpoint, or it is damaged.
        ConfigError: mistakes in what is asked for.
    """
    checkpoint, passed_over = open_one(request.path)
    return Found(checkpoint, _config(request, checkpoint), tuple(passed_over))


def find_together(request: EvaluateRequest, collectives: Collectives) -> Found:
    """What rank 0 finds, on every rank; collective.

    Raises:
        CheckpointError: a rank sees another checkpoint; as :func:`find`.
    """

    def of_rank_0() -> tuple[str, str, tuple[str, ...]]:
        checkpoint, passed_over = open_one(request.path)
        return checkpoint.path, checkpoint.manifest_checksum, tuple(passed_over)

    path, checksum, passed_over = from_rank_0(collectives, of_rank_0)

    def open_it() -> Found:
        checkpoint = open_checkpoint(path, storage_of(request.path)[0])
        if checkpoint.manifest_checksum != checksum:
            problem = f"rank {collectives.rank} sees another checkpoint than rank 0"
            raise CheckpointError(path, problem, hint="use a folder that all hosts share")
        return Found(checkpoint, _config(request, checkpoint), passed_over)

    return together(collectives, open_it)


def _config(request: EvaluateRequest, checkpoint: Checkpoint) -> EvaluateConfig:
    name = checkpoint.path.rpartition("/")[2]
    return request.completed(to_plain(saved_config(checkpoint)), f"configuration of {name}")
