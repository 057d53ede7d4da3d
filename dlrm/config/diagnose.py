"""The look at samples before training, and what the command diagnose can be told."""

from __future__ import annotations

from pathlib import PurePath
from typing import Annotated, Self

from pydantic import AfterValidator, model_validator

from dlrm.config.base import PositiveFloat, PositiveInt
from dlrm.config.data.paths import InputPath
from dlrm.config.root import Config


def _json(path: str) -> str:
    if path and PurePath(path).suffix != ".json":
        raise ValueError(f"is {path}, must end with .json")
    return path


class DiagnoseConfig(Config):
    """Say why a model learns nothing, or too much: what is wrong with the data, and what a run's figures show.

    With RUN all else is as that run had it (its config.yaml); otherwise the file and the options say which data.
    """

    path: str = ""
    """Folder of a run, whose figures are looked at as well as its data."""
    data_too: bool = True
    """Look at the samples, too, not at the figures of the run alone."""
    samples: PositiveInt = 131_072
    """Training samples to look at, spread over all of them, and half as many of validation and test each."""
    time_limit_s: PositiveFloat = 60.0
    """Seconds after which no more samples are read; more of them are compared with validation and test the longer it is."""
    output: Annotated[InputPath, AfterValidator(_json)] = ""
    """File for what was found, as JSON."""

    @model_validator(mode="after")
    def _looks_at_something(self) -> Self:
        if not (self.data_too or self.path):
            raise ValueError(
                "data_too is false and no run is named: nothing would be looked at; name a run, or drop it"
            )
        return self
