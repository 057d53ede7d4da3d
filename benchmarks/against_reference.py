"""Samples a second here and in facebookresearch/dlrm's torchrec trainer, in one run, by turns.

    .venv/bin/python -m benchmarks.against_reference DLRM [--cases REGEX] [--rounds 5] [--steps 60] [--save]
                                                          [-- --section.key value ...]

DLRM is a clone of facebookresearch/dlrm (tried: 090956e), whose trainer runs unchanged with this environment's packages.
Both train the same model, by SGD, with the same batches of the same ids, on the same ranks and threads. Words after ``--``
are options of this trainer alone, whose gain is to be seen. What is timed is torchrec's pipeline, which both drive: from
the end of a step to the end of a later one, and so all that happens between them. The first steps are left out. The time
that cores were busy, of all threads, is told as well: on a machine that others use it varies less than the clock's.

``criteo``: 13 dense features, 26 tables of 100,000 rows x 64, one-hot, bottom MLP 512-256-64, top MLP 512-512-256-1, global
batch 4,096. Each trainer reads the same packed files by its own reader.
``paper``: the single-device benchmark of the DLRM paper (arXiv:1906.00091, section 5; configs/paper_single_device.yaml):
512 dense features, 8 tables of 1,000,000 rows x 64. The reference's reader takes 26 tables and 13 dense features only: here
it is given finished batches in memory, and this trainer reads files.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "against_reference.json"
WARMUP_STEPS = 10
RANKS_AND_THREADS = ((1, 2), (2, 1))
DAYS = 24


@dataclass(frozen=True)
class Case:
    """A model and its batches."""

    dense: int
    rows: tuple[int, ...]
    dim: int
    bottom: tuple[int, ...]
    top: tuple[int, ...]
    global_batch_size: int


@dataclass(frozen=True)
class Speed:
    """Of a training, over all ranks: samples a second by the clock, and the time of cores, in microseconds, a sample."""

    samples_per_s: float
    core_us_per_sample: float


CASES = {
    "criteo": Case(13, (100_000,) * 26, 64, (512, 256, 64), (512, 512, 256, 1), 4096),
    "paper": Case(512, (1_000_000,) * 8, 64, (512, 512, 64), (1024, 1024, 1024, 1), 2048),
}


def main() -> None:
    """Run the cases and print a line each."""
    words = sys.argv[1:]
    end = words.index("--") if "--" in words else len(words)
    own = words[end + 1 :]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dlrm", type=Path)
    parser.add_argument("--cases", default="", metavar="REGEX", help="cases whose name, as in 'criteo 2', this matches")
    parser.add_argument("--rounds", type=int, default=5, help="each trains once in each trainer")
    parser.add_argument("--steps", type=int, default=60, help="of a training, the first 10 not counted")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--save", action="store_true", help=f"add to {RESULTS.relative_to(ROOT)}")
    given = parser.parse_args(words[:end])
    found = {}
    for name, case in CASES.items():
        chosen = [pair for pair in RANKS_AND_THREADS if re.search(given.cases, f"{name} {pair[0]}")]
        if not chosen:
            continue
        with tempfile.TemporaryDirectory(prefix="against_reference_") as folder:
            write_days(Path(folder), case, given.steps)
            for ranks, threads in chosen:
                title = " ".join([name, f"{ranks} rank(s) of {threads} thread(s)", *own])
                train_there = partial(
                    there, given.dlrm.resolve(), folder, case, ranks, threads, given.steps, given.device
                )
                train_here = partial(here, folder, case, ranks, threads, given.steps, given.device, own)
                found[title] = compared(title, {"reference": train_there, "here": train_here}, given.rounds)
    if given.save:
        kept = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
        RESULTS.write_text(json.dumps(kept | found, indent=2) + "\n")


def compared(title: str, trainers: dict[str, Callable[[], Speed]], rounds: int) -> dict[str, Any]:
    """Train by turns; the ratios of each round."""
    speeds: dict[str, list[Speed]] = {name: [] for name in trainers}
    for _ in range(rounds):
        for name, train in trainers.items():
            speeds[name].append(train())
    pairs = list(zip(speeds["here"], speeds["reference"], strict=True))
    ratios = {
        "samples_per_s": [ours.samples_per_s / theirs.samples_per_s for ours, theirs in pairs],
        "processor_time": [theirs.core_us_per_sample / ours.core_us_per_sample for ours, theirs in pairs],
    }
    medians = {
        name: ", ".join(
            f"{what} {statistics.median(getattr(speed, name) for speed in taken):,.0f}"
            for what, taken in speeds.items()
        )
        for name in ("samples_per_s", "core_us_per_sample")
    }
    speed, cost = (f"{statistics.median(of):.2f} ({min(of):.2f} to {max(of):.2f})" for of in ratios.values())
    print(f"{title}, {rounds} rounds\n  samples/s: {speed} times; {medians['samples_per_s']}")
    print(f"  by processor time: {cost} times; {medians['core_us_per_sample']} us a sample", flush=True)
    return {"ratios": ratios, "speeds": {name: [asdict(speed) for speed in taken] for name, taken in speeds.items()}}


def write_days(folder: Path, case: Case, steps: int) -> None:
    """Packed files of made-up days; all but the last hold the batches of a training."""
    import numpy as np

    draw = np.random.default_rng(5)
    rows = -(-case.global_batch_size * (steps + 4) // (DAYS - 1))
    for day in range(DAYS):
        np.save(folder / f"day_{day}_dense.npy", draw.normal(size=(rows, case.dense)).astype(np.float32))
        ids = draw.integers(0, case.rows, (rows, len(case.rows))).astype(np.int32)
        np.save(folder / f"day_{day}_sparse.npy", ids)
        np.save(folder / f"day_{day}_labels.npy", draw.integers(0, 2, (rows, 1)).astype(np.int32))


def options_of(case: Case, folder: str) -> dict[str, Any]:
    """What this trainer is told of a case, whose packed files are in ``folder``."""
    return {
        "data": {"kind": "packed", "path": folder, "rows": list(case.rows)},
        "model.embedding_dim": case.dim,
        "model.bottom_mlp": list(case.bottom),
        "model.top_mlp": list(case.top),
        "optim.dense": {"kind": "sgd", "lr": 0.01},
        "optim.sparse": {"kind": "sgd", "lr": 0.01},
        "train.global_batch_size": case.global_batch_size,
    }


def here(folder: str, case: Case, ranks: int, threads: int, steps: int, device: str, own: Sequence[str]) -> Speed:
    """Train in this trainer."""
    options: dict[str, Any] = {
        "run.dir": f"{folder}/runs",
        "run.overwrite": True,
        **options_of(case, folder),
        "train.max_steps": steps,
        "train.shuffle": False,
        "evaluation.test": False,
        "checkpoint.enabled": False,
        "logging.progress": False,
        "distributed.device": device,
    }
    words = [word for key, value in options.items() for word in (f"--{key}", json.dumps(value))]
    return timed("here", [str(ROOT), "train", *words, *own], case, ranks, threads, device)


def there(dlrm: Path, folder: str, case: Case, ranks: int, threads: int, steps: int, device: str) -> Speed:
    """Train in the reference."""
    flags: dict[str, Any] = {
        "in_memory_binary_criteo_path": folder,
        "num_embeddings_per_feature": ",".join(map(str, case.rows)),
        "embedding_dim": case.dim,
        "dense_arch_layer_sizes": ",".join(map(str, case.bottom)),
        "over_arch_layer_sizes": ",".join(map(str, case.top)),
        "batch_size": case.global_batch_size // ranks,
        "learning_rate": 0.01,
        "limit_train_batches": steps,
        "limit_val_batches": 1,
        "limit_test_batches": 1,
    }
    words = [word for key, value in flags.items() for word in (f"--{key}", str(value))]
    return timed("reference", [str(dlrm / "torchrec_dlrm"), *words], case, ranks, threads, device)


def timed(which: str, words: Sequence[str], case: Case, ranks: int, threads: int, device: str) -> Speed:
    """The speed of a training in processes of its own."""
    with tempfile.TemporaryDirectory() as folder:
        launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(ranks)]
        command = [sys.executable, *launcher, __file__, "--a-rank", which, folder, *words]
        environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
        if device == "cpu":
            environment["CUDA_VISIBLE_DEVICES"] = ""
        done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
        if done.returncode:
            sys.exit(f"{which} ended with {done.returncode}:\n{done.stderr[-3000:]}")
        of_ranks = [json.loads(path.read_text()) for path in Path(folder).glob("ends.*.json")]
    last = (len(of_ranks[0]) - 1) // WARMUP_STEPS * WARMUP_STEPS  # after which devices were waited for
    samples = case.global_batch_size * (last - WARMUP_STEPS)
    took_s = [(ends[last][0] - ends[WARMUP_STEPS][0], ends[last][1] - ends[WARMUP_STEPS][1]) for ends in of_ranks]
    return Speed(samples / max(wall for wall, _ in took_s), 1e6 * sum(cores for _, cores in took_s) / samples)


def a_rank(which: str, folder: str, home: str, words: list[str]) -> None:
    """A rank of either trainer. When each step ended is noted; nothing else is changed."""
    from torchrec.distributed import train_pipeline

    sys.path.insert(0, home)
    ends_s: list[tuple[float, float]] = []
    for kind in (train_pipeline.TrainPipelineBase, train_pipeline.TrainPipelineSparseDist):
        kind.progress = _noting(kind.progress, ends_s)
    import dlrm_main as trainer

    if which == "reference":
        if "--num_embeddings_per_feature" in words:
            _take_any_columns(trainer, words)
        trainer.main(words)
    elif code := trainer.main(words):
        sys.exit(code)
    Path(folder, f"ends.{os.environ['RANK']}.json").write_text(json.dumps(ends_s))


def _noting(progress: Callable[..., Any], ends_s: list[tuple[float, float]]) -> Callable[..., Any]:
    import torch

    def step(self: Any, batches: Iterator[Any]) -> Any:
        output = progress(self, batches)
        if self._model.training:
            if self._device.type == "cuda" and len(ends_s) % WARMUP_STEPS == 0:  # the host runs ahead
                torch.cuda.synchronize()
            ends_s.append((time.perf_counter(), time.process_time()))
        return output

    return step


def _take_any_columns(trainer: Any, words: list[str]) -> None:
    """Give the reference finished batches of other columns than Criteo's, which its reader does not take."""
    import numpy as np
    import torch
    from torchrec.datasets.utils import Batch
    from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

    given = dict(zip(words[::2], words[1::2], strict=True))
    folder, size = given["--in_memory_binary_criteo_path"], int(given["--batch_size"])
    tables = len(given["--num_embeddings_per_feature"].split(","))
    if tables == len(trainer.DEFAULT_CAT_NAMES):
        return
    names = [f"cat_{i}" for i in range(tables)]
    parts = [
        np.concatenate([np.load(f"{folder}/day_{day}_{part}.npy") for day in range(DAYS - 1)])
        for part in ("dense", "sparse", "labels")
    ]
    dense_BN, ids_BF, labels_B1 = parts

    def batches(*unused: Any) -> list[Any]:
        rank, ranks = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
        starts = range(rank * size, len(dense_BN) - ranks * size, ranks * size)
        return [
            Batch(
                dense_features=torch.from_numpy(dense_BN[start : start + size]),
                sparse_features=KeyedJaggedTensor(
                    keys=names,
                    values=torch.from_numpy(ids_BF[start : start + size].T.copy().reshape(-1)),
                    lengths=torch.ones(tables * size, dtype=torch.int32),
                    stride=size,
                ),
                labels=torch.from_numpy(labels_B1[start : start + size].reshape(-1)),
            )
            for start in starts
        ]

    trainer.DEFAULT_CAT_NAMES, trainer.DEFAULT_INT_NAMES = names, [f"int_{i}" for i in range(dense_BN.shape[1])]
    trainer.get_dataloader = batches


if __name__ == "__main__":
    if sys.argv[1:2] == ["--a-rank"]:
        a_rank(sys.argv[2], sys.argv[3], sys.argv[4], sys.argv[5:])
    else:
        main()
