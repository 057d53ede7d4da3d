"""From ``logging.sinks`` to sinks."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from dlrm.config import Config
from dlrm.config.run import LoggingConfig
from dlrm.run.secondary import Warn
from dlrm.run.sinks.base import Background


def require_sinks(config: LoggingConfig) -> None:
    """See that the packages that sinks need are there; before training.

    Raises:
        SetupError: names the one that is not.
    """
    if "mlflow" in config.sinks:
        from dlrm.run.sinks.mlflow import import_mlflow

        import_mlflow()


def open_sinks(config: Config, folder: Path, warn: Warn) -> list[Background]:
    """All that the configuration names.

    Args:
        config: of the run.
        folder: of the run.
        warn: told once of each that is lost.
    """
    found = []
    if "mlflow" in config.logging.sinks:
        from dlrm.run.sinks.mlflow import open_mlflow

        found.append(Background("mlflow", partial(open_mlflow, config, folder), warn))
    return found
