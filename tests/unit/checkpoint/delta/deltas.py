"""Chains of checkpoints of small states, made without a trainer."""

from pathlib import Path

import torch

from dlrm.checkpoint.delta.format import DirtyShard, Link
from dlrm.checkpoint.delta.quantise import encode_rows
from dlrm.checkpoint.stored import open_checkpoint
from dlrm.checkpoint.tensors import GlobalTensor
from tests.unit.checkpoint.states import State, save_ranks

SHAPES = {
    "tables.a.weight": (37, 8),
    "tables.a.optimizer.sum": (37,),
    "tables.b.weight": (20, 6),
    "tables.b.optimizer.exp_avg": (20, 6),
    "tables.dp.weight": (5, 4),
    "mlp.weight": (9, 7),
}
ROW_WISE = {"a": ((0, 0, 20, 8), (20, 0, 17, 8)), "b": ((0, 0, 20, 6),)}
COLUMN_WISE = {"a": ((0, 0, 37, 3), (0, 3, 37, 5)), "b": ((0, 0, 9, 6), (9, 0, 11, 2), (9, 2, 11, 4))}


def normal_state(seed: int) -> State:
    generator = torch.Generator().manual_seed(seed)
    return State({name: torch.randn(shape, generator=generator) for name, shape in SHAPES.items()})


def stepped(state: State, seed: int, rows: dict[str, list[int]]) -> State:
    """Another state in which only these rows of the tables are different."""
    new = normal_state(seed)
    for table, touched in rows.items():
        for name, value in state.values.items():
            if name.startswith(f"tables.{table}."):
                kept = torch.ones(len(value), dtype=torch.bool)
                kept[touched] = False
                new.values[name][kept] = value[kept]
    return new


def link(path: Path) -> Link:
    checkpoint = open_checkpoint(path)
    return Link(step=checkpoint.step, manifest_checksum=checkpoint.manifest_checksum)


def dirty_tensors(state: State, shard: DirtyShard, rows: list[int], bits: int) -> list[GlobalTensor]:
    """What a delta holds of a shard; ``rows`` of the whole table."""
    here = [row for row in rows if 0 <= row - shard.first_row < shard.rows]
    values = {f"{shard.name}.rows": torch.tensor(here, dtype=torch.int32) - shard.first_row}
    columns = slice(shard.first_column, shard.first_column + shard.columns)
    for name, value in state.values.items():
        if name.startswith(f"tables.{shard.table}."):
            own = f"{shard.name}.{name.removeprefix(f'tables.{shard.table}.')}"
            if value.dim() == 2:
                part = value[here][:, columns]
                values[own] = encode_rows(part) if bits == 8 and name.endswith(".weight") else part
            elif shard.first_column == 0:
                values[own] = value[here]
    return [alone(name, value) for name, value in values.items()]


def alone(name: str, value: torch.Tensor) -> GlobalTensor:
    return GlobalTensor.of(name, value.contiguous())


def save_delta(
    folder: Path,
    step: int,
    state: State,
    rows: dict[str, list[int]],
    *,
    base: Path,
    parent: Path,
    bits: int = 32,
    shards=ROW_WISE,
    change=lambda tensors, record: None,
) -> Path:
    """Save as two ranks that take the shards in turn; ``change`` may spoil what they save."""
    ranks: list[list[GlobalTensor]] = [[], []]
    all_shards = [DirtyShard(table, *place) for table, places in shards.items() for place in places]
    for index, shard in enumerate(all_shards):
        ranks[index % 2] += dirty_tensors(state, shard, rows[shard.table], bits)
    ranks[0] += [alone(name, value) for name, value in state.values.items() if name.split(".")[1] not in shards]
    record = {
        "base": link(base).model_dump(),
        "parent": link(parent).model_dump(),
        "bits": bits,
        "shards": {table: [list(place) for place in places] for table, places in shards.items()},
    }
    tensors = {tensor.name: tensor for rank in ranks for tensor in rank}
    change(tensors, record)
    ranks = [
        [tensors[tensor.name] for tensor in ranks[0] if tensor.name in tensors]
        + [tensor for name, tensor in tensors.items() if name not in {t.name for rank in ranks for t in rank}],
        [tensors[tensor.name] for tensor in ranks[1] if tensor.name in tensors],
    ]
    return save_ranks(folder, step, ranks, {"increment": record})
