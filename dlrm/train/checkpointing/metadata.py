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
from dlrm.metrics.tasks import Results
from dlrm.sharding.report import TablePlacement
from dlrm.train.checkpointing.train_state import Best, TrainingData, order_options
from dlrm.train.checkpointing.vocabularies import VOCABULARIES
from dlrm.train.schedule import Position
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
            "order": order_options(self.config, self.data.samples, self.data.days),
            "data_files": [asdict(file) for file in self.data.files],
            VOCABULARIES: dict(self.data.vocabularies),
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
        sums_2T = self.measured.loss_sums_2T.clone()
        self.world.collectives.all_reduce_sum_(sums_2T)
        losses_T, labels_T = sums_2T.tolist()
        if not math.isfinite(total := sum(losses_T)):
            raise DivergedError(f"step {position.step}: the training loss summed since the last record is {total}")
        one_task = len(losses_T) == 1  # which is stored as it was before there could be others
        days = [(step, day, _plain(results)) for step, day, results in self.measured.days]
        return {
            "training_time_s": self.measured.throughput.overall().elapsed_s,
            "last_loss": self.measured.last_loss,
            "loss_sum": losses_T[0] if one_task else losses_T,
            "loss_samples": labels_T[0] if one_task else labels_T,
            "validation": [(step, _plain(results)) for step, results in self.measured.validation_history],
            **({"days": days} if days else {}),
        }


def _plain(results: Results) -> dict[str, Any]:
    by_task = {task: result.to_dict() for task, result in results.items()}
    return by_task if len(by_task) > 1 else next(iter(by_task.values()))
