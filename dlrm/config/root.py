"""The whole configuration of a training run."""

from __future__ import annotations

from dlrm.config.base import Section
from dlrm.config.checkpoint import CheckpointConfig, ResumeConfig
from dlrm.config.data import DataConfig, PlantedData
from dlrm.config.model import ModelConfig
from dlrm.config.optim import OptimConfig
from dlrm.config.run import DistributedConfig, LoggingConfig, RunConfig
from dlrm.config.sharding import ShardingConfig
from dlrm.config.train import EvaluationConfig, TrainConfig


class Config(Section):
    """One training run. Frozen: nothing is derived by changing it after parsing."""

    run: RunConfig = RunConfig()
    distributed: DistributedConfig = DistributedConfig()
    data: DataConfig = PlantedData()
    model: ModelConfig = ModelConfig()
    optim: OptimConfig = OptimConfig()
    sharding: ShardingConfig = ShardingConfig()
    train: TrainConfig = TrainConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    checkpoint: CheckpointConfig = CheckpointConfig()
    resume: ResumeConfig = ResumeConfig()
    logging: LoggingConfig = LoggingConfig()
