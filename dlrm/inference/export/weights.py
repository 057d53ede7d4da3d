"""The weights of a checkpoint under the names of a model's, averaged where the run has averages."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from dlrm.checkpoint.fill import Progress, ignore
from dlrm.checkpoint.reader import Reader
from dlrm.checkpoint.tensors import GlobalTensor, weight_name
from dlrm.errors import CheckpointMismatchError
from dlrm.table_names import is_table_weight, state_name
from dlrm.train.checkpointing.load import has_average
from dlrm.train.checkpointing.state import AVERAGE_PREFIX


@dataclass(frozen=True)
class Weights:
    """Reads weights of a checkpoint.

    Attributes:
        reader: of the checkpoint; averaged: take the averages instead.
    """

    reader: Reader
    averaged: bool

    @classmethod
    def of(cls, reader: Reader, *, average: bool) -> Weights:
        """The averages, where they are asked for and there are any, or else the weights themselves."""
        return cls(reader, average and has_average(reader))

    def table(self, feature: str) -> str:
        """The name in the checkpoint of what stands for a table."""
        return self._name(weight_name(state_name(feature)))

    def check(self, shapes: Mapping[str, tuple[int, ...]]) -> None:
        """See that the checkpoint has weights of these names and shapes.

        Raises:
            CheckpointMismatchError: all that differs.
        """
        found = []
        for name, shape in shapes.items():
            record = self.reader.tensors.get(name)
            if record is None:
                found.append(f"{name} is not in the checkpoint")
            elif record.shape != shape:
                found.append(f"{name} has shape {list(record.shape)} in the checkpoint, {list(shape)} here")
        if found:
            hint = "export it with the configuration and the data that it was trained with"
            raise CheckpointMismatchError(self.reader.checkpoint.path, found, hint=hint)

    def fill(self, tensors: Sequence[GlobalTensor], progress: Progress = ignore) -> None:
        """Fill tensors that are called as in the checkpoint.

        Raises:
            CheckpointError: a chunk is damaged, or cannot be read.
        """
        self.reader.prepare(tensors, verify=False, progress=progress)()

    def dense(self, module: torch.nn.Module) -> None:
        """Fill the parameters of a model outside of its tables, and what else of it a checkpoint holds.

        Raises:
            CheckpointError: they are not in the checkpoint, or damaged.
        """
        wanted = {
            self._name(name) if name in parameters else name: tensor
            for parameters in [dict(module.named_parameters())]
            for name, tensor in module.state_dict().items()
            if not is_table_weight(name)
        }
        self.check({name: tuple(tensor.shape) for name, tensor in wanted.items()})
        self.fill([GlobalTensor.of(name, tensor) for name, tensor in wanted.items()])

    def _name(self, name: str) -> str:
        return f"{AVERAGE_PREFIX}{name}" if self.averaged else name
