"""The hook that keeps MLPerf's log: when training, its epochs, blocks and evaluations begin and end.

A *block* is what is trained between two evaluations. Epochs are counted from 1, and a position within one is a fraction, as
in MLPerf's reference: after half of the second epoch ``epoch_num`` is 1.5.
"""

from __future__ import annotations

from collections.abc import Callable

from dlrm.config import Config
from dlrm.metrics.tasks import Results, deciding
from dlrm.run.mlperf import MlperfLog, write_parameters
from dlrm.train.hooks import Hook, multiple_after
from dlrm.train.schedule import BEGINNING, Position, Schedule
from dlrm.train.standard_hooks import TARGET_REACHED


class MlperfHook(Hook):
    """Writes the log; on rank 0 alone, after the hook that evaluates.

    Args:
        log: takes the lines.
        config: of the run.
        schedule: how much it trains.
        train_samples: of an epoch.
        eval_samples: of an evaluation.
        began_ms: when the process began, in milliseconds since 1970.
    """

    def __init__(
        self,
        log: MlperfLog,
        config: Config,
        schedule: Schedule,
        *,
        train_samples: int,
        eval_samples: int,
        began_ms: int,
    ) -> None:
        self._log, self._config, self._schedule = log, config, schedule
        self._samples = {"train_samples": train_samples, "eval_samples": eval_samples}
        self._position = BEGINNING
        self._block: dict[str, float] | None = None
        self._epoch_num: int | None = None  # of the epoch that was begun and has not ended
        log.event("cache_clear", False)  # nobody has cleared the page cache
        log.start("init_start", time_ms=began_ms)

    def scoring(self, score: Callable[[], Results]) -> Callable[[], Results]:
        """What evaluates, with the lines around it."""

        def scored() -> Results:
            self._end_block()
            where = {"epoch_num": self._epochs(self._position)}
            self._log.start("eval_start", where)
            results = score()
            if (auc := deciding(results).auc) is not None:
                self._log.event("eval_accuracy", auc, where)
            self._log.stop("eval_stop", where)
            return results

        return scored

    def on_start(self, position: Position) -> str | None:
        """The last before training."""
        self._position = position
        write_parameters(self._log, self._config, **self._samples)
        self._log.stop("init_stop")
        self._log.start("run_start")
        return None

    def before_steps(self, position: Position) -> None:
        """An epoch or a block begins, unless this was a pause for something else."""
        if self._epoch_num is None:
            self._epoch_num = position.epoch + 1
            self._log.start("epoch_start", {"epoch_num": self._epoch_num})
        if self._block is None:
            end = self._schedule.next_end(position.step)
            if every := self._config.evaluation.every_steps:
                end = min(end, multiple_after(position.step, every))
            first = self._epochs(position)
            self._block = {
                "first_epoch_num": first,
                "epoch_count": self._epochs(self._schedule.position(end)) - first,
            }
            self._log.start("block_start", self._block)

    def on_step(self, position: Position, output: object) -> None:
        """Where training stands."""
        self._position = position

    def on_pause(self, position: Position) -> str | None:
        """The end of an epoch, which has been evaluated."""
        if position.epoch_ended:
            self._end_block()
            self._end_epoch()
        return None

    def on_end(self, position: Position, reason: str) -> None:
        """The run ends: with success, if it has reached the accuracy it was to reach."""
        self._end_block()
        self._end_epoch()
        self._log.stop("run_stop", {"status": "success" if reason == TARGET_REACHED else "aborted"})

    def _end_block(self) -> None:
        if self._block is not None:
            self._log.stop("block_stop", self._block)
            self._block = None

    def _end_epoch(self) -> None:
        if self._epoch_num is not None:
            self._log.stop("epoch_stop", {"epoch_num": self._epoch_num})
            self._epoch_num = None

    def _epochs(self, position: Position) -> float:
        return position.epoch + position.batch / self._schedule.order.num_batches
