#!/usr/bin/env python3
"""How long training stands for a save that goes on behind it, beside one that it waits for.

    python benchmarks/checkpoint_stall.py                          2 GiB of state on one rank, 7 saves
    python benchmarks/checkpoint_stall.py --gib 1 --ranks 2 --json benchmarks/results/checkpoint_stall.json

Of each save two times are taken: until training could go on (the state is copied out), and until the checkpoint is looked
through, committed and durable, which is what a synchronous save takes. Their quotient needs no second run, so the machine's
load meets both alike. Memory for the copy is taken before, as a run does at its start; the storage is the folder's.

The state is that of four tables with row-wise Adagrad, so that a rank has large and small tensors.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))  # run from a checkout, where the package is not installed

from dlrm.checkpoint.retention import prune  # noqa: E402
from dlrm.checkpoint.saver import AsyncSaver  # noqa: E402
from dlrm.checkpoint.soundness import fault_in_snapshot  # noqa: E402
from dlrm.checkpoint.tensors import GlobalTensor, Shard  # noqa: E402
from dlrm.distributed.collectives import ProcessGroup  # noqa: E402
from tests.support.ranks import run_ranks  # noqa: E402

_TABLES, _DIM = 4, 128


def state(gib: float, rank: int, world_size: int) -> list[GlobalTensor]:
    """Tables cut by rows over the ranks; ``gib`` over all of them."""
    rows = int(gib * 2**30 / _TABLES / (_DIM + 1) / 4)
    first, stop = rank * rows // world_size, (rank + 1) * rows // world_size
    tensors = []
    for table in range(_TABLES):
        weight_RD, sum_R = torch.rand(stop - first, _DIM), torch.rand(stop - first)
        tensors.append(GlobalTensor(f"t{table}.weight", (rows, _DIM), torch.float32, (Shard((first, 0), weight_RD),)))
        tensors.append(GlobalTensor(f"t{table}.sum", (rows,), torch.float32, (Shard((first,), sum_R),)))
    return tensors


def measure(rank: int, world_size: int, folder: str, gib: float, saves: int) -> list[tuple[float, float]]:
    """(seconds that training stood, seconds until committed) of each save, as rank 0 saw them."""
    tensors, saver, times = (
        state(gib, rank, world_size),
        AsyncSaver(folder, ProcessGroup(), judge=fault_in_snapshot),
        [],
    )
    saver.reserve(tensors)
    for step in range(1, saves + 1):
        saver.save(step, tensors, {})
        saver.wait()
        assert saver.last is not None
        times.append((saver.last.stalled_s, saver.last.stalled_s + saver.last.written_s))
        if rank == 0:
            prune(folder, keep=2)
        torch.distributed.barrier()
    return times


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--gib", type=float, default=2.0, help="of state, over all ranks")
    parser.add_argument("--ranks", type=int, default=1)
    parser.add_argument("--saves", type=int, default=7)
    parser.add_argument("--folder", help="on the storage to measure; a temporary one by default")
    parser.add_argument("--json", type=Path, help="write the figures here")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        arguments = (f"{folder}/checkpoints", options.gib, options.saves)
        times = run_ranks(measure, options.ranks, *arguments, timeout_s=3600.0)[0]
    shares = [stood / whole for stood, whole in times]
    result: dict[str, Any] = {
        "gib": options.gib,
        "ranks": options.ranks,
        "cores": len(os.sched_getaffinity(0)),
        "load_average": os.getloadavg()[0],
        "stood_s": [round(stood, 4) for stood, _ in times],
        "committed_s": [round(whole, 3) for _, whole in times],
        "share_median": round(statistics.median(shares), 4),
        "share_range": [round(min(shares), 4), round(max(shares), 4)],
    }
    for stood, whole in times:
        print(f"training stood {stood:7.3f} s of {whole:7.2f} s: {stood / whole:.1%}")
    print(f"median {statistics.median(shares):.1%} ({min(shares):.1%} to {max(shares):.1%}) of a synchronous save")
    if options.json:
        options.json.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
