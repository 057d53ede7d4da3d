"""What the command calibrate can be told."""

from __future__ import annotations

from dlrm.config.base import PositiveInt, Section
from dlrm.config.data.paths import InputPath
from dlrm.config.run import DistributedConfig


class CalibrateConfig(Section):
    """Measure what the ranks that run this can do, for `plan --machine FILE` and predictions beside experiments."""

    output: InputPath = "calibration.json"
    """File that gets what was found. What other numbers of ranks have found is kept there."""
    rows: PositiveInt = 20_000
    """Rows of the tables that are looked up; as many as tables of the models to predict have, up to millions."""
    bags: PositiveInt = 512
    """Samples of a lookup."""
    distributed: DistributedConfig = DistributedConfig()
