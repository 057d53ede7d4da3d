"""Where a run leaves its files, what it is called, where it computes and how it talks."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, StringConstraints

from dlrm.config.base import AS_LIST, Advanced, NonNegativeInt, PositiveFloat, PositiveInt, Section
from dlrm.config.data.paths import InputPath


class RunConfig(Section):
    """Name, folder and seed of a run."""

    name: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")] = "run"
    """Name of the run; its files go to <dir>/<name>."""
    dir: InputPath = "runs"
    """Folder that holds the runs."""
    seed: NonNegativeInt = 0
    """Seed of initial weights, sample order and dropout. The result does not depend on the number of ranks."""
    overwrite: bool = False
    """Replace an earlier run of this name, if its folder holds nothing that no run writes; otherwise a number is added to
    the name."""


class DistributedConfig(Section):
    """Devices and collectives. World size and ranks come from the launcher (torchrun, torchx), not from here."""

    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where to compute: auto takes CUDA where every rank, on all hosts, has a device of its own, else CPU."""
    backend: Literal["auto", "gloo", "nccl"] = "auto"
    """Backend of the collectives: auto takes nccl on CUDA and gloo on CPU."""
    timeout_s: Advanced[Annotated[PositiveFloat, Field(le=31_536_000)]] = 600.0
    """Seconds after which a collective that does not complete is an error."""
    threads_per_rank: Advanced[Annotated[NonNegativeInt, Field(le=4096)]] = 0
    """CPU threads of a rank; 0 divides the cores of the host by its ranks."""


class MlflowConfig(Section):
    """Where MLflow keeps runs."""

    uri: str = ""
    """Of its server or database, which goes into the run's config.yaml: leave secrets to MLflow's own variables. Left out:
    MLFLOW_TRACKING_URI; without that <run.dir>/mlflow.db, an SQLite file."""
    experiment: str = "dlrm"
    """Name of the experiment that the run belongs to."""


SinkName = Literal["mlflow"]


class MlperfSubmission(Section):
    """What MLPerf's log says of who submits what; a log with the defaults is none that anyone may submit."""

    org: str = "none"
    """Who submits."""
    platform: str = "unknown"
    """On what."""
    division: Literal["closed", "open"] = "closed"
    """By which rules it is to be judged."""
    status: Literal["onprem", "cloud", "preview", "research"] = "research"
    """What is submitted."""


class LoggingConfig(Section):
    """What is shown and written while training."""

    every_steps: PositiveInt = 20
    """Steps between two entries of metrics.jsonl and TensorBoard (needs one small all-reduce each)."""
    progress: bool = True
    """Show progress on the terminal of global rank 0."""
    tensorboard: bool = True
    """Write TensorBoard event files."""
    sinks: Annotated[tuple[SinkName, ...], *AS_LIST[1:]] = ()
    """Services that get the same figures: mlflow (requirements/mlflow.txt). One that fails is told of, and training goes
    on."""
    mlflow: Advanced[MlflowConfig] = MlflowConfig()
    mlperf: bool = False
    """Write MLPerf Training's log of the run, mlperf.log, by the package mlperf-logging (DLRM-DCNv2's rules)."""
    mlperf_submission: Advanced[MlperfSubmission] = MlperfSubmission()
    heartbeat_s: Advanced[Annotated[PositiveFloat, Field(le=3600)]] = 5.0
    """Seconds between the signs of life that each rank leaves in the run's folder, for `dlrm_main.py status`."""
