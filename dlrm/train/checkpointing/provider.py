"""What provides the state that each checkpoint of a run holds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from dlrm.checkpoint.saver import SaveReport
from dlrm.checkpoint.stored import Checkpoint
from dlrm.checkpoint.tensors import GlobalTensor
from dlrm.train.checkpointing.state import engine_tensors
from dlrm.train.engine import Engine


class StateProvider(Protocol):
    """What checkpoints are made of."""

    def collect(self) -> tuple[Sequence[GlobalTensor], dict[str, Any]]:
        """What the next checkpoint holds, and metadata for its manifest; on every rank."""

    def on_saved(self, report: SaveReport | None) -> None:
        """The save before was committed (its report) or has failed (None); the same on every rank."""

    def resumed(self, checkpoint: Checkpoint | None) -> None:
        """Training goes on from a checkpoint, or starts; called once, before it does."""


class FullState:
    """Everything, in every checkpoint."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def collect(self) -> tuple[Sequence[GlobalTensor], dict[str, Any]]:
        """All tensors of the engine."""
        return engine_tensors(self._engine), {}

    def on_saved(self, report: SaveReport | None) -> None:
        """The next one is full whatever became of the last."""

    def resumed(self, checkpoint: Checkpoint | None) -> None:
        """Nor does it depend on the first."""
