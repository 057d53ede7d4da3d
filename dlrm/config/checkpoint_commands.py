"""What the commands that look at checkpoints can be told: ``checkpoint list``, ``show``, ``verify``, ..."""

from __future__ import annotations

from dlrm.config.base import Names, Section
from dlrm.config.root import Config


class ListConfig(Section):
    """Which checkpoints there are, the newest first."""

    path: str
    """Folder of a run or of its checkpoints, or one checkpoint."""


class ShowConfig(Section):
    """What one checkpoint holds."""

    path: str
    """A checkpoint; or the folder of a run or of its checkpoints, for the newest good one."""
    config: bool = False
    """Print the configuration it was saved with, as YAML, and nothing else."""


class VerifyConfig(Section):
    """Whether checkpoints are whole: every byte is read."""

    paths: Names
    """Checkpoints, or folders of runs or of their checkpoints, for all in them."""


class DiffConfig(Section):
    """How two checkpoints differ."""

    first: str
    """A checkpoint; or the folder of a run or of its checkpoints, for the newest good one."""
    second: str
    """What to compare it with."""


class ExportConfig(Section):
    """One safetensors file of whole tensors."""

    path: str
    """A checkpoint; or the folder of a run or of its checkpoints, for the newest good one."""
    output: str
    """The file to write."""
    optimizer: bool = False
    """Export everything: the state of optimizers and averages of weights as well."""
    overwrite: bool = False
    """Replace the file if it is there."""


class ImportConfig(Config):
    """Weights that facebookresearch/dlrm's torchrec trainer has saved, for the model of a training configuration."""

    state_dict: str
    """The file: torch.save(model.state_dict()), or safetensors."""
    output: str
    """Folder for the checkpoint: it becomes step_00000000 in it."""


CheckpointCommand = ListConfig | ShowConfig | VerifyConfig | DiffConfig | ExportConfig
