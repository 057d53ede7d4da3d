"""Load the training state of every world and sharding into every world and sharding, and count the comparisons.

    .venv/bin/python -m scripts.checkpoint_matrix [--worlds 1,2,3,4,8]

For each optimizer of the tables, each number of ranks and each sharding type a small model is trained for a few steps. Its
state is then loaded on every number of ranks under every sharding type, where weights and optimizer state must be those
saved, to the bit. Everything is passed on in memory, so this is about the state and its shards, not about files.
Exit code 1 if anything differs.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from pathlib import Path

import torch

from dlrm.config import Config, load_config
from dlrm.data.loader import BatchLoader
from dlrm.data.order import SampleOrder
from dlrm.train.engine import build_engine
from tests.support.ranks import run_ranks
from tests.support.training import this_world, tiny_source
from tests.support.whole_state import fill_state, gather_state

SHARDINGS = (
    "data_parallel",
    "table_wise",
    "row_wise",
    "column_wise",
    "table_row_wise",
    "table_column_wise",
    "grid_shard",
)
OPTIMIZERS = {
    "sgd": ["optim.sparse={kind: sgd, lr: 0.1}", "optim.dense={kind: sgd, lr: 0.05, momentum: 0.9}"],
    "adagrad": ["optim.sparse={kind: adagrad, lr: 0.05}", "optim.dense={kind: adagrad, lr: 0.02}"],
    "rowwise_adagrad": ["optim.sparse={kind: rowwise_adagrad, lr: 0.05}", "optim.dense={kind: adam, lr: 0.01}"],
}
RANKS_PER_HOST = {1: 1, 2: 1, 3: 3, 4: 2, 8: 4}
STEPS = 3
SAMPLES = 48 * STEPS


def configuration(optimizer: str, sharding: str) -> Config:
    return load_config(
        None,
        [
            "model={bottom_mlp: [16, 16], embedding_dim: 16, top_mlp: [16, 1], dropout: 0.2}",
            "train={global_batch_size: 48, average_decay: 0.9}",
            f"sharding.types={sharding}",
            *OPTIMIZERS[optimizer],
        ],
    )


def be_on_several_hosts(rank: int, world_size: int) -> None:
    of_host = RANKS_PER_HOST.get(world_size, world_size)
    os.environ.update(LOCAL_WORLD_SIZE=str(of_host), LOCAL_RANK=str(rank % of_host))


def trained_states(rank: int, world_size: int, path: str) -> None:
    """Write {(optimizer, sharding): state} of trained models."""
    be_on_several_hosts(rank, world_size)
    world, source = this_world(), tiny_source(SAMPLES)
    loader = BatchLoader(source, SampleOrder(SAMPLES, global_batch_size=48), rank=rank, world_size=world_size)
    states = {}
    for optimizer in OPTIMIZERS:
        for sharding in SHARDINGS:
            engine = build_engine(configuration(optimizer, sharding), source.schema, world)
            for _ in engine.stepper.train(loader.batches(0, 0, STEPS), first_step=1):
                engine.average.update()
            states[optimizer, sharding] = gather_state(engine, world.collectives)
    if rank == 0:
        torch.save(states, path)


def compare_loaded(rank: int, world_size: int, paths: dict[int, str]) -> tuple[int, int, list[str]]:
    """Load all states under each sharding; the number of loads, of compared tensors, and what differs."""
    be_on_several_hosts(rank, world_size)
    world = this_world()
    states = {saved: torch.load(path, weights_only=True) for saved, path in paths.items()}
    loads, compared, differing = 0, 0, []
    for optimizer in OPTIMIZERS:
        for sharding in SHARDINGS:
            engine = build_engine(configuration(optimizer, sharding), tiny_source(1).schema, world)
            for saved, of_world in states.items():
                for origin in SHARDINGS:
                    state = of_world[optimizer, origin]
                    fill_state(engine, state)
                    for name, tensor in gather_state(engine, world.collectives).items():
                        compared += 1
                        if not torch.equal(tensor, state[name]):
                            route = f"{saved} rank(s) {origin} -> {world_size} rank(s) {sharding}"
                            differing.append(f"{optimizer}: {route}: {name}")
                    loads += 1
    return loads, compared, differing


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--worlds", default="1,2,3,4,8", help="numbers of ranks")
    worlds = [int(world) for world in parser.parse_args().worlds.split(",")]
    begun = time.monotonic()
    loads, compared, differing = 0, 0, []
    with tempfile.TemporaryDirectory() as folder:
        paths = {world: str(Path(folder) / f"{world}.pt") for world in worlds}
        for world, path in paths.items():
            run_ranks(trained_states, world, path, timeout_s=900)
        for world in worlds:
            of_world = run_ranks(compare_loaded, world, paths, timeout_s=1800)[0]
            print(f"on {world} rank(s): {of_world[0]:,} loads, {of_world[1]:,} tensors, {len(of_world[2])} differ")
            loads, compared, differing = loads + of_world[0], compared + of_world[1], differing + of_world[2]
    for text in differing[:20]:
        print(text)
    print(
        f"{loads:,} loads ({len(OPTIMIZERS)} optimizers, {len(worlds)} worlds and {len(SHARDINGS)} shardings, each to "
        f"each), {compared:,} tensors compared to the bit, {len(differing)} differ; {time.monotonic() - begun:.0f} s"
    )
    return 1 if differing else 0


if __name__ == "__main__":
    sys.exit(main())
