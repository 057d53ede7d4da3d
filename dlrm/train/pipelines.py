"""Torchrec's train pipelines, by the names that ``train.pipeline`` has for them: what runs beside what in a step.

All of them train the same, batch by batch, in the same order. torchrec's TrainPipelineSemiSync is none of them: it looks
a batch up before the batch before has been trained, which is another algorithm, and whose steps would hang on when a run
pauses.
"""

from __future__ import annotations

from typing import Any

import torch
from torchrec.distributed.train_pipeline import (
    PrefetchTrainPipelineSparseDist,
    TrainPipelineBase,
    TrainPipelineSparseDist,
)
from torchrec.distributed.train_pipeline.train_pipelines import TrainPipelineFusedSparseDist

from dlrm.config.train import Pipeline
from dlrm.errors import ConfigError
from dlrm.sharding.id_exchange import tell_on_host


class _ToldOnHost:
    """Beside a pipeline that exchanges ids ahead: on CUDA the host tells how many."""

    def _pipeline_model(self, *arguments: Any, **named: Any) -> None:
        super()._pipeline_model(*arguments, **named)  # type: ignore[misc]
        if self._device.type == "cuda":  # type: ignore[attr-defined]  # on the CPU the numbers are where they belong
            tell_on_host(self._pipelined_modules)  # type: ignore[attr-defined]


class _SparseDist(_ToldOnHost, TrainPipelineSparseDist):  # type: ignore[misc]  # torchrec is untyped here
    pass


class _Prefetch(_ToldOnHost, PrefetchTrainPipelineSparseDist):  # type: ignore[misc]
    pass


class _FusedSparseDist(_ToldOnHost, TrainPipelineFusedSparseDist):  # type: ignore[misc]
    pass


_PIPELINES: dict[Pipeline, Any] = {
    "base": TrainPipelineBase,
    "sparse_dist": _SparseDist,
    "fused_sparse_dist": _FusedSparseDist,
    "prefetch": _Prefetch,
}
_ON_CPU = ("base", "sparse_dist")


def check_pipeline(pipeline: Pipeline, device: torch.device) -> None:
    """See that a device has what a pipeline needs.

    Raises:
        ConfigError: it overlaps what only CUDA's streams can.
    """
    if device.type == "cpu" and pipeline not in _ON_CPU:
        message = f"is {pipeline}, which needs the streams of CUDA; on cpu there are {' and '.join(_ON_CPU)}"
        raise ConfigError.at("train.pipeline", message)


def build_pipeline(pipeline: Pipeline, model: torch.nn.Module, optimizer: Any, device: torch.device) -> Any:
    """A pipeline that trains every batch it is given."""
    return _PIPELINES[pipeline](model, optimizer, device)
