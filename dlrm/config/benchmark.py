"""What the command benchmark can be told, beside how to train."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import model_validator

from dlrm.config.base import AS_LIST, Advanced, NonNegativeInt, PositiveInt
from dlrm.config.data.paths import InputPath
from dlrm.config.root import Config

Part = Literal["lookups", "exchange", "mlps", "interaction", "data"]
REFUSED = {
    "warm_start": "is about the weights that a training begins with, and a benchmark begins with new ones: leave it out",
    "preflight": "is about looking at data before training, and a benchmark does not look: leave it out",
}
"""Sections that cannot be given on the command line, and why; in a training's file they are passed over."""
PartsIfAny = Annotated[tuple[Part, ...], *AS_LIST[1:]]


class BenchmarkConfig(Config):
    """Train for some steps and say where their time goes. Nothing is saved, scored or resumed, and no run is touched."""

    steps: PositiveInt = 50
    """Steps whose time is taken, after those of warm-up."""
    warmup_steps: NonNegativeInt = 10
    """Steps before them."""
    profiled_steps: Advanced[PositiveInt] = 20
    """Further steps, under torch's profiler, which the breakdown is made of."""
    without: PartsIfAny = ()
    """What to leave out of the steps, so that the difference of two runs is what it costs: lookups (the tables are neither
    read nor updated), exchange (no collective between ranks), mlps, interaction, data (the same few batches again and
    again). What is trained then means nothing."""
    profile: bool = False
    """Write a trace of the profiled steps for each rank, for https://ui.perfetto.dev."""
    output: InputPath = ""
    """Folder for benchmark.json, breakdown.png and traces; <run.dir>/<run.name>.benchmark if left out. What an earlier
    benchmark left in it is replaced."""

    @model_validator(mode="after")
    def _options_go_together(self) -> Self:
        if self.train.accumulation_steps > 1 and {"mlps", "interaction"} & set(self.without):
            raise ValueError(
                "without mlps or interaction, some weights get no gradient, which train.accumulation_steps does not allow: "
                "set it to 1"
            )
        return self
