"""The whole configuration of a training run."""

from __future__ import annotations

from pydantic import model_validator

from dlrm.config.base import Section
from dlrm.config.checkpoint import NEWEST, CheckpointConfig, ResumeConfig
from dlrm.config.data import DataConfig, PlantedData
from dlrm.config.model import DlrmModel, ModelConfig
from dlrm.config.optim import OptimConfig
from dlrm.config.precision import PrecisionConfig
from dlrm.config.run import DistributedConfig, LoggingConfig, RunConfig
from dlrm.config.sharding import ShardingConfig
from dlrm.config.train import EvaluationConfig, PreflightConfig, TrainConfig


class Config(Section):
    """One training run. Frozen: nothing is derived by changing it after parsing."""

    run: RunConfig = RunConfig()
    distributed: DistributedConfig = DistributedConfig()
    data: DataConfig = PlantedData()
    model: ModelConfig = DlrmModel()
    optim: OptimConfig = OptimConfig()
    sharding: ShardingConfig = ShardingConfig()
    precision: PrecisionConfig = PrecisionConfig()
    preflight: PreflightConfig = PreflightConfig()
    train: TrainConfig = TrainConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    checkpoint: CheckpointConfig = CheckpointConfig()
    resume: ResumeConfig = ResumeConfig()
    logging: LoggingConfig = LoggingConfig()

    @model_validator(mode="after")
    def _one_of_two(self) -> Config:
        if self.run.overwrite and self.resume.checkpoint == NEWEST:
            raise ValueError(
                "run.overwrite removes the checkpoints that resume.checkpoint auto would go on from; drop one"
            )
        return self
