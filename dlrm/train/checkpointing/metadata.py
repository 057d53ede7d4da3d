"""What a run writes into each checkpoint beside tensors; :mod:`dlrm.train.checkpointing.train_state` reads it."""

from __future__ import annotations

import math
import time
from dataclasses import asdict, dataclass
from typing import Any

from dlrm.config import Config
from dlrm.config.describe import to_plain
from dlrm.distributed.world import World
from dlrm.errors import DivergedError
from dlrm.sharding.report import TablePlacement
from dlrm.train.checkpointing.train_state import Best, TrainingData, order_options
from dlrm.train.hooks import Position
from dlrm.train.standard_hooks import Measured


@dataclass(frozen=True)
class MetadataOfRun:
    """Makes the metadata of each checkpoint of a run.

    Attributes:
        config, data: what is trained, and on what; placements: where the tables are.
        measured: figures so far; versions: of the packages that compute.
    """

    config: Config
    data: TrainingData
    world: World
    placements: list[TablePlacement]
    measured: Measured
    versions: dict[str, str]

    def __call__(self, position: Position, reason: str, best: Best | None) -> dict[str, Any]:
        """Metadata for the manifest; collective.

        Raises:
            DivergedError: the loss is no longer finite, nor, then, worth saving what it comes from; on every rank.
        """
        return {
            "position": asdict(position),
            "order": order_options(self.config, self.data.samples),
            "data_files": [asdict(file) for file in self.data.files],
            "config": to_plain(self.config),
            "plan": [asdict(placement) for placement in self.placements],
            "metrics": self._metrics(position),
            "best": None if best is None else best.model_dump(),
            "reason": reason,
            "ranks": self.world.size,
            "time": time.time(),
            "versions": self.versions,
        }

    def _metrics(self, position: Position) -> dict[str, Any]:
        sums_2 = self.measured.loss_sums_2.clone()
        self.world.collectives.all_reduce_sum_(sums_2)
        if not math.isfinite(sums_2[0]):
            raise DivergedError(f"step {position.step}: the training loss summed since the last record is {sums_2[0]}")
        return {
            "training_time_s": self.measured.throughput.overall().elapsed_s,
            "last_loss": self.measured.last_loss,
            "loss_sum": float(sums_2[0]),
            "loss_samples": float(sums_2[1]),
            "validation": [(step, result.to_dict()) for step, result in self.measured.validation_history],
        }
