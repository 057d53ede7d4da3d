"""Small training states cut up at random, and saving them from several ranks that live in one process."""

import random
from dataclasses import dataclass
from pathlib import Path

import torch

from dlrm.checkpoint import snapshot as snapshot_module
from dlrm.checkpoint.manifest import DTYPES
from dlrm.checkpoint.names import checkpoint_name
from dlrm.checkpoint.save import Destination, commit, prepare, write_rank
from dlrm.checkpoint.slices import Slice, whole
from dlrm.checkpoint.snapshot import Snapshots
from dlrm.checkpoint.storage import LocalStorage
from dlrm.checkpoint.tensors import GlobalTensor, Shard

SHAPES = {
    "tables.a.weight": ((37, 8), "float32"),
    "tables.a.optimizer.momentum1": ((37,), "float32"),
    "tables.b.weight": ((5, 33), "float16"),
    "tables.c.weight": ((64, 3), "bfloat16"),
    "mlp.weight": ((9, 7), "float32"),
    "mlp.exp_avg": ((9, 7), "float64"),
    "counts": ((3, 2, 4), "int64"),
    "flags": ((11,), "bool"),
    "bytes": ((13, 5), "uint8"),
    "step": ((), "int64"),
    "nothing": ((0, 4), "float32"),
}


@dataclass(frozen=True)
class State:
    """The whole tensors by name."""

    values: dict[str, torch.Tensor]

    def same_bits_as(self, other: "State") -> bool:
        return all(same_bits(value, other.values[name]) for name, value in self.values.items())


def same_bits(one: torch.Tensor, other: torch.Tensor) -> bool:
    return one.dtype == other.dtype and one.shape == other.shape and _bits(one) == _bits(other)


def _bits(tensor: torch.Tensor) -> bytes:
    return tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


def random_state(seed: int, shapes=None) -> State:
    """Every bit pattern is possible, NaNs with payloads included."""
    rng = random.Random(seed)
    values = {}
    for name, (shape, dtype_name) in (shapes or SHAPES).items():
        dtype = DTYPES[dtype_name]
        count = whole(shape).size
        data = bytearray(rng.randbytes(count * dtype.itemsize))
        if dtype == torch.bool:
            data = bytearray(byte & 1 for byte in data)
        values[name] = (torch.frombuffer(data, dtype=dtype) if data else torch.empty(0, dtype=dtype)).reshape(shape)
    return State(values)


def blank(state: State) -> State:
    return State({name: torch.zeros_like(value) for name, value in state.values.items()})


def random_slices(rng: random.Random, shape: tuple[int, ...], cuts: int) -> list[Slice]:
    """Cut a tensor ``cuts`` times, each time one slice in two, at random places in random dimensions."""
    found = [whole(shape)]
    for _ in range(cuts):
        offsets, size = found.pop(rng.randrange(len(found)))
        dims = [dim for dim, length in enumerate(size) if length > 1]
        if not dims:
            found.append(Slice(offsets, size))
            continue
        dim = rng.choice(dims)
        at = rng.randrange(1, size[dim])
        second = list(offsets)
        second[dim] += at
        found.append(Slice(offsets, (*size[:dim], at, *size[dim + 1 :])))
        found.append(Slice(tuple(second), (*size[:dim], size[dim] - at, *size[dim + 1 :])))
    return found


def cut_up(state: State, seed: int, world_size: int) -> list[list[GlobalTensor]]:
    """What each rank holds: views of its own copy of the state, cut at random; some tensors replicated."""
    rng = random.Random(seed)
    ranks: list[list[GlobalTensor]] = [[] for _ in range(world_size)]
    for name, value in state.values.items():
        shape = tuple(value.shape)
        replicated = rng.random() < 0.3
        owners: list[list[Shard]] = [[] for _ in range(world_size)]
        if replicated:
            owners = [[Shard((0,) * len(shape), value.clone())] for _ in range(world_size)]
        else:
            for slice_ in random_slices(rng, shape, rng.randrange(6)):
                part = value[slice_.index_from()]
                owner = rng.randrange(world_size)
                owners[owner].append(Shard(slice_.offsets, part.clone() if rng.random() < 0.5 else part))
                if rng.random() < 0.3:  # somebody holds a copy as well
                    owners[rng.randrange(world_size)].append(Shard(slice_.offsets, part.clone(), primary=False))
        for rank, shards in enumerate(owners):
            ranks[rank].append(GlobalTensor(name, shape, value.dtype, tuple(shards), replicated))
    return ranks


def uncut(state: State) -> list[GlobalTensor]:
    """What one rank holds that has everything in one shard each."""
    return [GlobalTensor.of(name, value) for name, value in state.values.items()]


def gathered(ranks: list[list[GlobalTensor]]) -> State:
    """The whole tensors that the ranks' shards make; shards that hold the same elements have to agree."""
    values = {}
    for name in (tensor.name for tensor in ranks[0]):
        tensors = [tensor for rank in ranks for tensor in rank if tensor.name == name]
        total = torch.zeros(tensors[0].shape, dtype=tensors[0].dtype)
        shards = [shard for tensor in tensors for shard in tensor.shards]
        for shard in shards:
            total[shard.slice.index_from()] = shard.tensor
        for shard in shards:
            assert same_bits(total[shard.slice.index_from()], shard.tensor)
        values[name] = total
    return State(values)


def save_ranks(folder: Path, step: int, ranks: list[list[GlobalTensor]], metadata=None) -> Path:
    """Save as ranks in one process, one after the other."""
    storage, world_size = LocalStorage(), len(ranks)
    token = prepare(storage, str(folder), step)
    destinations = [
        Destination(storage, f"{folder}/{checkpoint_name(step)}", step, token, rank, world_size)
        for rank in range(world_size)
    ]
    for destination, tensors in zip(destinations, ranks, strict=True):
        write_rank(destination, Snapshots(destination.rank, world_size).snapshot(tensors))
    commit(destinations[0], metadata or {}, time_limit_s=5)
    return folder / checkpoint_name(step)


def small_chunks(monkeypatch, *, chunk_bytes: int = 160, file_bytes: int = 600) -> None:
    """Cut even small states into many chunks and files."""
    monkeypatch.setattr(snapshot_module, "MAX_CHUNK_BYTES", chunk_bytes)
    monkeypatch.setattr(snapshot_module, "MAX_FILE_BYTES", file_bytes)
