"""What ``dlrm_main.py import-flags`` can be told."""

from __future__ import annotations

from typing import Literal

from dlrm.config.base import PositiveInt, Section

OtherTrainer = Literal["facebookresearch", "mlperf"]


class ImportFlagsConfig(Section):
    """A command line of facebookresearch/dlrm's torchrec trainer, or of MLPerf's fork of it, as a configuration."""

    command_line: tuple[str, ...] = ()
    """That command line, launcher included, as it stands behind ``--``."""
    ranks: PositiveInt | None = None
    """Number of its ranks, where no torchx or torchrun in the command line says it: --batch_size is that of a rank."""
    trainer: Literal["auto"] | OtherTrainer = "auto"
    """Which of the two trainers it is of, where no flag tells: they evaluate at different times. auto takes
    facebookresearch's unless a flag is MLPerf's alone."""
