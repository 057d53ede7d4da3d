"""What ``export`` can be told."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self

from dlrm.config.base import Section
from dlrm.config.data.paths import InputPath
from dlrm.config.describe import flatten, options
from dlrm.config.layers import Layer
from dlrm.config.load import load_options
from dlrm.config.root import Config

_DATA = "data."


class ExportModelConfig(Section):
    """A folder that answers without the trainer: the model of a checkpoint, its tables, and how raw rows are read.

    What raw rows are is found in the data that were trained on. If they were moved, say where they are, as in
    --data.path NEW: options of data go before those that the checkpoint was trained with.
    """

    checkpoint: InputPath
    """A checkpoint; or the folder of a run or of its checkpoints, for the newest good one."""
    output: InputPath
    """Folder to write."""
    update: InputPath = ""
    """An export of an earlier checkpoint that CHECKPOINT, a delta, depends on: its tables are copied, of checkpoints only
    the rows that have changed since are read. The result is that of a whole export."""
    average: bool = True
    """Export the averages of the weights, where the run has them (train.average_decay), as its evaluations use them."""
    compile: bool = False
    """Compile the dense part for this kind of machine too (AOTInductor; needs a C++ compiler). It is machine code: whoever
    runs it must trust the export."""
    onnx: bool = False
    """Write the dense part as ONNX, too (needs the packages onnx and onnxscript)."""
    overwrite: bool = False
    """Replace an export that is there."""


class ExportRequest(ExportModelConfig):
    """What the command line says.

    Attributes:
        data_words: those of its words that are about the data; the rest of that section is in the checkpoint.
    """

    data_words: tuple[str, ...] = ()

    @classmethod
    def of(cls, words: tuple[str, ...]) -> Self:
        """The request of a command line.

        Raises:
            ConfigError: every mistake in it that shows without the checkpoint.
        """
        mine, data = _parted(words)
        return cls(**load_options(ExportModelConfig, None, mine).model_dump(), data_words=data)

    def trained(self, saved: Mapping[str, Any], origin: str) -> Config:
        """A checkpoint's configuration with what was asked for of the data in its place.

        Args:
            saved: the configuration.
            origin: how messages call where it is from.

        Raises:
            ConfigError: every mistake in it.
        """
        base = Layer(dict(saved), dict.fromkeys(flatten(dict(saved)), origin))
        return load_options(Config, None, self.data_words, base=base)


def _parted(words: tuple[str, ...]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The words of export itself, and those about the data."""
    mine: list[str] = []
    data: list[str] = []
    switches = {
        f"--{option.path}"
        for section in (ExportModelConfig, Config)
        for option in options(section)
        if option.type_name == "true|false"
    }
    rest = list(words)
    while rest:
        word = rest.pop(0)
        group = data if word.removeprefix("--").startswith(_DATA) else mine
        group.append(word)
        if not word.startswith("--") or "=" in word or not rest or rest[0].startswith("--"):
            continue
        if word not in switches or rest[0].lower() in ("true", "false"):
            group.append(rest.pop(0))
    return tuple(mine), tuple(data)
