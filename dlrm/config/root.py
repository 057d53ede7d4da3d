"""The whole configuration of a training run."""

from __future__ import annotations

from pydantic import model_validator

from dlrm.config.base import Section
from dlrm.config.checkpoint import NEWEST, NO_CHECKPOINT, CheckpointConfig, ResumeConfig, WarmStartConfig
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
    warm_start: WarmStartConfig = WarmStartConfig()
    logging: LoggingConfig = LoggingConfig()

    @model_validator(mode="after")
    def _one_of_two(self) -> Config:
        if self.run.overwrite and self.resume.checkpoint == NEWEST:
            raise ValueError(
                "run.overwrite removes the checkpoints that resume.checkpoint auto would go on from; drop one"
            )
        return self

    @model_validator(mode="after")
    def _the_best_is_kept(self) -> Config:
        if self.evaluation.patience and self.checkpoint.best and not self.checkpoint.enabled:
            raise ValueError(
                "evaluation.patience with checkpoint.best keeps the best one's state, and checkpoint.enabled is false: "
                "drop checkpoint.best, or save checkpoints"
            )
        return self

    @model_validator(mode="after")
    def _one_beginning(self) -> Config:
        warm = self.warm_start.checkpoint
        if warm == NO_CHECKPOINT and self.warm_start.optimizer:
            raise ValueError("warm_start.optimizer takes state over, and no warm_start.checkpoint is named: name one")
        if warm == NEWEST:
            raise ValueError(
                "warm_start.checkpoint is auto, which is for resume.checkpoint: name a checkpoint or a run"
            )
        if warm != NO_CHECKPOINT and self.resume.checkpoint not in (NO_CHECKPOINT, NEWEST):
            raise ValueError("warm_start.checkpoint and resume.checkpoint both name what to begin with: drop one")
        if warm != NO_CHECKPOINT and self.train.reset_tables_each_epoch:
            raise ValueError(
                "train.reset_tables_each_epoch would put tables back to a new model's weights, not to those of "
                "warm_start.checkpoint: drop one"
            )
        return self
