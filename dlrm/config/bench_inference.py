"""What ``bench-inference`` can be told."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from dlrm.config.base import AS_LIST, Advanced, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt, Section
from dlrm.config.base import SizesIfAny as CountsIfAny
from dlrm.config.data.paths import InputPath, InputPaths

Counts = Annotated[tuple[Annotated[int, Field(gt=0, le=65536)], ...], *AS_LIST]
CpuSets = Annotated[tuple[Literal["all", "cores"], ...], *AS_LIST]
Forms = Annotated[tuple[Literal["features", "raw"], ...], *AS_LIST]


class BenchInferenceConfig(Section):
    """How many requests exports answer on this machine within a bound of their latency.

    Every combination of batch_rows, threads, models, request_rows, given and cpu_sets is a point.
    """

    exports: InputPaths
    """Folders of exports. With several, each is measured alone, and they are the models that share the machine."""
    output: InputPath = ""
    """Folder for results.json, points.csv, points.parquet and picture.png; <first export>.benchmark if left out. What an
    earlier benchmark left in it is replaced."""
    bound_ms: PositiveFloat = 25.0
    """What 99 % of the requests must be answered within, counted from when each was due, in milliseconds."""
    batch_rows: Counts = (1, 32, 256)
    """Most rows that are computed at once."""
    threads: CountsIfAny = ()
    """Threads that compute, one CPU each; 1 and as many as there are CPUs if left out."""
    models: Counts = (1, 2)
    """Models that share the threads: copies of the export, or of the exports in turn. 1 is what the others are compared
    with."""
    request_rows: Counts = (1,)
    """Rows of a request."""
    given: Forms = ("features",)
    """How requests come: features (encoding is not counted) or raw (rows of JSON values become features first, in the
    thread that asks)."""
    cpu_sets: CpuSets = ("all", "cores")
    """all: every CPU; cores: one of each core, which leaves hyper-threads out. Where cores have one only, all is
    measured."""
    cpus: NonNegativeInt = 0
    """Use so many CPUs; 0: all that this process may use."""
    skew: NonNegativeFloat = 1.05
    """Of made-up ids: number i of a column comes with probability ~ 1 / (i + 1)^skew; 0: uniform."""
    data: InputPath = ""
    """A file of raw rows to ask with, Parquet or JSON lines; made up like the export's example if left out."""
    rounds: NonNegativeInt = 5
    """Rounds of the comparison with the plain way: the trainer's model, one request after the other; 0: none."""
    seconds: PositiveFloat = 1.0
    """Length of a short run."""
    confirm_seconds: PositiveFloat = 4.0
    """Length of the run that confirms a rate."""
    tolerance: Advanced[PositiveFloat] = 0.05
    """The search for the highest rate ends when it is known this well."""
    clients: Advanced[NonNegativeInt] = 0
    """Of closed runs; 0: twice as many as fill a batch of each thread."""
    max_wait_ms: Advanced[NonNegativeFloat] = 0.0
    """How long the first request of a batch waits for others."""
    max_queue_rows: Advanced[PositiveInt] = 16384
    """That wait for one model; requests beyond are shed."""
    timeout_ms: Advanced[NonNegativeFloat] = 0.0
    """How long a request may wait before it expires; 0: as long as it takes."""
    compiled: bool = False
    """Run the machine code that the export holds (export --compile true). It is code: only of exports that you trust."""
    seed: NonNegativeInt = 1
    """Of rows and arrivals."""

    @model_validator(mode="after")
    def _requests_can_wait(self) -> Self:
        if max(self.request_rows) > self.max_queue_rows:
            raise ValueError("a request of request_rows rows is larger than max_queue_rows")
        return self
