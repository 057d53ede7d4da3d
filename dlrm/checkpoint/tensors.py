"""What a checkpoint is made of, independent of how it is sharded: global tensors, of which each rank holds shards.

A *global tensor* is what there would be with one rank and no sharding: a whole table, the whole state of its optimizer, a
weight of an MLP. A *shard* is a slice of one, in every dimension; the shards of all ranks together cover it. Saving writes
shards, in *chunks* of bounded size, loading fills shards, and the two need not be cut alike, so that any world and sharding
loads what any other has saved.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from dlrm.checkpoint.manifest import DTYPE_NAMES, TensorRecord
from dlrm.checkpoint.slices import Slice
from dlrm.table_names import is_table_weight, state_name

if TYPE_CHECKING:
    from dlrm.models.base import Model


@dataclass(frozen=True)
class Shard:
    """A slice of a global tensor.

    Attributes:
        offsets: where it begins in each dimension.
        tensor: its values, as this rank holds them (a view: loading writes into it).
        primary: whether saving takes the values from here; a copy of what another shard holds is only filled by loading.
    """

    offsets: tuple[int, ...]
    tensor: torch.Tensor
    primary: bool = True

    @property
    def slice(self) -> Slice:
        """Which elements of the global tensor it has."""
        return Slice(tuple(self.offsets), tuple(self.tensor.shape))


@dataclass(frozen=True)
class GlobalTensor:
    """A tensor of the training state and what this rank holds of it.

    Attributes:
        name: unique in the state, e.g. ``tables.cat_0.weight``, ``tables.cat_0.optimizer.sum``.
        shape, dtype: of the whole.
        shards: what this rank holds; none, one or several. The primary ones do not overlap.
        replicated: whether every rank holds all of it (equal values); otherwise exactly one primary shard of all ranks
            holds an element.
    """

    name: str
    shape: tuple[int, ...]
    dtype: torch.dtype
    shards: tuple[Shard, ...]
    replicated: bool = False

    @classmethod
    def of(cls, name: str, tensor: torch.Tensor, *, replicated: bool = False) -> GlobalTensor:
        """One that this rank has all of."""
        shard = Shard((0,) * tensor.dim(), tensor.detach())
        return cls(name, tuple(tensor.shape), tensor.dtype, (shard,), replicated)

    @property
    def record(self) -> TensorRecord:
        """What a manifest says of it."""
        return TensorRecord(name=self.name, shape=self.shape, dtype=DTYPE_NAMES[self.dtype])


def weight_name(table: str) -> str:
    """A table's weight in the state."""
    return f"tables.{table}.weight"


def model_shapes(model: Model) -> dict[str, tuple[int, ...]]:
    """The weights of a model that is not sharded, by their names in the state; tables without columns of padding."""
    shapes: dict[str, tuple[int, ...]] = {
        weight_name(state_name(table.name)): (table.rows, table.dim) for table in model.lookups.tables
    }
    dense = {name: tuple(weight.shape) for name, weight in model.named_parameters() if not is_table_weight(name)}
    return shapes | dense


def names_by_table(names: Iterable[str]) -> dict[str, list[str]]:
    """What there is of each table: ``weight``, ``average``, ``optimizer.<state>``; see :func:`full_name`.

    Tensors of no table are left out.
    """
    found: dict[str, list[str]] = defaultdict(list)
    for name in names:
        if name.startswith(("tables.", "average.tables.")) and name.endswith(".weight"):
            table = name.removeprefix("average.")[len("tables.") : -len(".weight")]
            found[table].append("weight" if name.startswith("tables.") else "average")
        elif name.startswith("tables."):
            table, separator, state = name.removeprefix("tables.").rpartition(".optimizer.")
            if separator:
                found[table].append(f"optimizer.{state}")
    return found


def full_name(table: str, name: str) -> str:
    """The tensor of the state that :func:`names_by_table` calls so."""
    return f"average.{weight_name(table)}" if name == "average" else f"tables.{table}.{name}"


def tensors_by_table(tensors: Sequence[GlobalTensor]) -> dict[str, dict[str, GlobalTensor]]:
    """The tensors of each table by their names in it (:func:`names_by_table`)."""
    by_name = {tensor.name: tensor for tensor in tensors}
    return {
        table: {name: by_name[full_name(table, name)] for name in names}
        for table, names in names_by_table(by_name).items()
    }
