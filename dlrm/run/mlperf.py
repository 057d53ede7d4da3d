"""MLPerf Training's log of a run: ``:::MLLOG`` lines, by MLCommons' package, in ``mlperf.log`` of the run's folder.

What the rules of DLRM-DCNv2 ask for is written as it is here. Where a run differs from the benchmark's (an optimizer,
samples, an accuracy that was not reached) the line says so, and MLCommons' checker refuses it.
"""

from __future__ import annotations

import importlib
import logging
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dlrm.config import Config
from dlrm.config.optim import Adagrad, RowwiseAdagrad, Schedule, SparseAdagrad
from dlrm.errors import SetupError
from dlrm.optim.schedule import batch_size_factor
from dlrm.run.secondary import Warn, reason

LOG_NAME = "mlperf.log"
BENCHMARK = "dlrm_dcnv2"
_ROOT = Path(__file__).resolve().parents[2]


def import_mllog() -> Any:
    """MLCommons' logging package.

    Raises:
        SetupError: it is not installed.
    """
    try:
        return importlib.import_module("mlperf_logging.mllog")
    except ImportError:
        hint = "pip install --no-deps -r requirements/mlperf.txt, or leave logging.mlperf out"
        raise SetupError(f"logging.mlperf needs the package mlperf-logging, which is not installed: {hint}") from None


def check_mlperf() -> None:
    """See that the log can be kept.

    Raises:
        SetupError: the package is not installed.
    """
    import_mllog()


class MlperfLog:
    """Writes the lines; for rank 0.

    Args:
        folder: of the run.
        warn: told once if the file cannot be written, which ends no training.
    """

    def __init__(self, folder: Path, warn: Warn) -> None:
        mllog = import_mllog()
        logger = logging.Logger("dlrm.mlperf", logging.INFO)
        logger.addHandler(_File(folder / LOG_NAME, warn))
        self._log = mllog.mllog.MLLogger(logger=logger, root_dir=str(_ROOT), default_stack_offset=2)

    def event(self, key: str, value: Any, metadata: Mapping[str, Any] | None = None) -> None:
        """A fact."""
        self._log.event(key, value=value, metadata=dict(metadata or {}))

    def start(self, key: str, metadata: Mapping[str, Any] | None = None, *, time_ms: int | None = None) -> None:
        """An interval begins, now or at a time before."""
        self._log.start(key, metadata=dict(metadata or {}), time_ms=time_ms)

    def stop(self, key: str, metadata: Mapping[str, Any] | None = None) -> None:
        """An interval ends."""
        self._log.end(key, metadata=dict(metadata or {}))


class _File(logging.FileHandler):
    def __init__(self, path: Path, warn: Warn) -> None:
        super().__init__(path, encoding="utf-8", delay=True)
        self._warn: Warn | None = warn

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802  # logging's name
        """Tell it once, where logging would print a traceback for each line."""
        warn, self._warn = self._warn, None
        error = sys.exc_info()[1]
        if warn is not None and isinstance(error, Exception):
            warn(f"warning: {self.baseFilename}: {reason(error)}; the run goes on")


def write_parameters(log: MlperfLog, config: Config, *, train_samples: int, eval_samples: int) -> None:
    """What was submitted by whom, and the hyper-parameters."""
    submission = config.logging.mlperf_submission
    log.event("submission_benchmark", BENCHMARK)
    log.event("submission_division", submission.division)
    log.event("submission_org", submission.org)
    log.event("submission_platform", submission.platform)
    log.event("submission_status", submission.status)
    dense, sparse, schedule = config.optim.dense, config.optim.sparse, config.optim.schedule
    log.event("seed", config.run.seed)
    log.event("global_batch_size", config.train.global_batch_size)
    log.event("gradient_accumulation_steps", config.train.accumulation_steps)
    log.event("train_samples", train_samples)
    log.event("eval_samples", eval_samples)
    log.event("opt_name", dense.kind if dense.kind == sparse.kind else f"{dense.kind} and {sparse.kind}")
    factor = batch_size_factor(config)
    log.event("opt_base_learning_rate", factor * dense.lr, {"tables": factor * sparse.lr})
    log.event("opt_weight_decay", dense.weight_decay)
    tables = sparse if isinstance(sparse, SparseAdagrad | RowwiseAdagrad) else None
    if (adagrad := dense if isinstance(dense, Adagrad) else tables) is not None:
        log.event("opt_adagrad_learning_rate_decay", 0)  # torch's lr_decay, which there is none of here
        start, eps = ({}, {}) if tables is None else ({"tables": tables.initial_accumulator}, {"tables": tables.eps})
        log.event("opt_adagrad_initial_accumulator_value", adagrad.initial_accumulator, start)
        log.event("opt_adagrad_epsilon", adagrad.eps, eps)
    log.event("opt_learning_rate_warmup_steps", schedule.warmup_steps)
    if isinstance(schedule, Schedule):  # the rules know no other
        log.event("opt_learning_rate_decay_start_step", schedule.decay_start_step or 0)
        log.event("opt_learning_rate_decay_steps", schedule.decay_steps or 0)
