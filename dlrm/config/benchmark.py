"""What the command benchmark can be told, beside how to train."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import model_validator

from dlrm.config.base import AS_LIST, Advanced, NonNegativeInt, PositiveInt
from dlrm.config.data.paths import InputPath
from dlrm.config.root import Config

Part = Literal["lookups", "exchange", "mlps", "interaction", "data"]
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
    predict: bool = False
    """Say what memory a rank of `train` will take at its peak, part by part, and write prediction.json. Nothing is trained
    then, and no table is made."""
    as_ranks: PositiveInt | None = None
    """With predict: ask for a job of so many ranks, of which none is started, instead of the job that runs this."""
    as_ranks_per_host: PositiveInt | None = None
    """Ranks on each host of that job; 8, or as_ranks if that is less, if left out."""
    as_device: str = ""
    """What each of them has: the name of a GPU that dlrm/hardware/devices.yaml lists (H100); its CPU if left out."""
    output: InputPath = ""
    """Folder for benchmark.json, breakdown.png and traces, or for prediction.json; <run.dir>/<run.name>.benchmark if left
    out. What an earlier benchmark left in it is replaced."""

    @model_validator(mode="after")
    def _options_go_together(self) -> Self:
        if not self.predict and (self.as_ranks or self.as_ranks_per_host or self.as_device):
            raise ValueError("as_ranks, as_ranks_per_host and as_device are for a prediction: set predict to true")
        if self.predict and self.without:
            raise ValueError("predict is about the whole training: leave without out")
        if self.train.accumulation_steps > 1 and {"mlps", "interaction"} & set(self.without):
            raise ValueError(
                "without mlps or interaction, some weights get no gradient, which train.accumulation_steps does not allow: "
                "set it to 1"
            )
        return self
