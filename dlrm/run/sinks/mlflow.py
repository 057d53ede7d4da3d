"""Figures in MLflow: a run of an experiment, with the configuration as its parameters.

A run that is resumed goes on in the run of MLflow that it began (mlflow.json in its folder).
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dlrm.config import Config
from dlrm.config.describe import flatten, to_plain
from dlrm.errors import SetupError
from dlrm.files import write_json
from dlrm.format import printable

NAME = "mlflow.json"
_PARAMETERS = 100  # in one request, as MLflow has it
_LONGEST = 500  # of a parameter's value


def import_mlflow() -> Any:
    """MLflow's module; its import takes a second. It neither writes to the terminal nor tells its makers of its use.

    Raises:
        SetupError: it is not installed.
    """
    os.environ.setdefault("MLFLOW_CONFIGURE_LOGGING", "false")
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    try:
        import mlflow
        import mlflow.tracking
    except ImportError as error:
        message = f"logging.sinks names mlflow, which cannot be imported ({printable(str(error))})"
        raise SetupError(f"{message}: pip install -r requirements/mlflow.txt, or leave it out") from None
    return mlflow


class MlflowSink:
    """Writes to a run of MLflow.

    Args:
        client: an MlflowClient.
        run_id: of the run.
    """

    def __init__(self, client: Any, run_id: str) -> None:
        self._client, self._run_id = client, run_id

    def record(self, kind: str, step: int, numbers: Mapping[str, float]) -> None:
        """See :class:`~dlrm.run.sinks.base.Sink`."""
        metric, now_ms = import_mlflow().entities.Metric, int(time.time() * 1000)
        metrics = [metric(f"{kind}/{name}", value, now_ms, step) for name, value in numbers.items()]
        self._client.log_batch(self._run_id, metrics=metrics)

    def close(self) -> None:
        """The run is finished."""
        self._client.set_terminated(self._run_id)


def open_mlflow(config: Config, folder: Path) -> MlflowSink:
    """Begin a run, or go on with the one that this run's folder names."""
    mlflow = import_mlflow()
    own = config.logging.mlflow
    uri = own.uri or os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{folder.absolute().parent}/mlflow.db"
    client = mlflow.tracking.MlflowClient(tracking_uri=uri)
    if (folder / NAME).exists():
        import json

        run_id = str(json.loads((folder / NAME).read_text())["run_id"])
        client.set_terminated(run_id, status="RUNNING")
        return MlflowSink(client, run_id)
    experiment = client.get_experiment_by_name(own.experiment)
    experiment_id = experiment.experiment_id if experiment else client.create_experiment(own.experiment)
    run_id = client.create_run(experiment_id, run_name=config.run.name).info.run_id
    write_json(folder / NAME, {"run_id": run_id}, durable=False)
    options = flatten(to_plain(config))
    parameters = [mlflow.entities.Param(name, str(value)[:_LONGEST]) for name, value in options.items()]
    for first in range(0, len(parameters), _PARAMETERS):
        client.log_batch(run_id, params=parameters[first : first + _PARAMETERS])
    return MlflowSink(client, run_id)
