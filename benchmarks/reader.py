#!/usr/bin/env python3
"""How fast batches come from a packed data set, beside torchrec's InMemoryBinaryCriteoIterDataPipe on the same files.

    python benchmarks/reader.py                                     4 million samples, 2 to 3 minutes
    python benchmarks/reader.py --samples 400000 --rounds 3         a look

Contenders take turns, round after round in one process, so that whatever else the machine does meets all of them; figures
are medians over the rounds with the lowest and the highest. The files lie in the page cache throughout.

- *taken*: batches are received and dropped. torchrec's pipe hands on views of its arrays: of a sample's 160 bytes it
  touches the ids alone.
- *moved*: every tensor of a batch is copied to a buffer that stands for a device, so everything has been read.
- *CPU*: what taking a sample costs on all threads of this process together.
- *wait*: the consumer computes for a while after each batch, without the GIL, as a device does; what it waits for the
  next batch is what training loses.

torchrec's pipe is used as facebookresearch/dlrm's trainer does: DataLoader(pipe, batch_size=None, num_workers=0); and, to
read ahead as ours does, with one worker process (more would each yield all batches). Its files
are loaded before the clock starts (*open*). It offers three orders: as stored; the samples of each batch shuffled among
themselves (shuffle_batches); all samples shuffled once for all epochs, in memory, while loading (shuffle_training_set).
Ours checks every value, widens ids to 64 bits, and draws another order in every epoch.

Memory is the proportional set size (PSS) summed over rank processes, minus what they had before they opened the data: pages
that ranks share are counted once.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader
from torchrec.datasets.criteo import InMemoryBinaryCriteoIterDataPipe

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))  # run from a checkout, where the package is not installed

from dlrm.config.data.packed import PackedData, PartSplit  # noqa: E402
from dlrm.data.batch import make_batch  # noqa: E402
from dlrm.data.check import SampleCheck  # noqa: E402
from dlrm.data.loader import BatchLoader  # noqa: E402
from dlrm.data.order import SampleOrder  # noqa: E402
from dlrm.data.packed.dataset import packed_dataset  # noqa: E402
from dlrm.data.source import Source  # noqa: E402

ROWS = (40_000_000, 39_060, 17_295, 7_424, 20_265, 3, 7_122, 1_543, 63, 40_000_000, 3_067_956, 405_282, 10, 2_209, 11_938,
        155, 4, 976, 14, 40_000_000, 40_000_000, 40_000_000, 590_152, 12_973, 108, 36)  # fmt: skip
PARTS = 2
STEP_S = 0.005
ORDERS: dict[str, dict[str, Any]] = {
    "as stored": {"shuffle": False},
    "in blocks": {"shuffle": True, "block_samples": 8192, "window_blocks": 64},
    "globally": {"shuffle": True},
}
PEER_ORDERS: dict[str, dict[str, Any]] = {
    "as stored": {},
    "as stored, mapped": {"mmap_mode": True},
    "as stored, 1 worker": {"workers": 1},
    "within batches": {"shuffle_batches": True},
    "once, while loading": {"shuffle_training_set": True},
}
REST = (("cpu_ns", 0), ("wait_us", 0), ("open_s", 2))  # and digits
Batches = Callable[[], Iterator[Any]]


def write_files(folder: Path, samples: int) -> None:
    """Seeded numbers in the packed layout: day_0, day_1, ..."""
    random = np.random.default_rng(0)
    rows = samples // PARTS
    for part in range(PARTS):
        np.save(folder / f"day_{part}_dense.npy", random.random((rows, 13), dtype=np.float32))
        ids_MF = np.stack([random.integers(0, n, rows, dtype=np.int32) for n in ROWS], axis=1)
        np.save(folder / f"day_{part}_sparse.npy", ids_MF)
        np.save(folder / f"day_{part}_labels.npy", random.integers(0, 2, (rows, 1), dtype=np.int32))


def source_of(folder: Path) -> Source:
    split = PartSplit(train=(f"day_0..day_{PARTS - 1}",))
    return packed_dataset(PackedData(path=str(folder), rows=ROWS, split=split)).train


def ours(folder: Path, batch: int, threads: int, order: dict[str, Any]) -> Batches:
    source, epochs = source_of(folder), itertools.count()
    sample_order = SampleOrder(source.num_samples, global_batch_size=batch, **order)
    loader = BatchLoader(source, sample_order, prefetch_batches=4, read_threads=threads)
    return lambda: loader.batches(next(epochs), 0, sample_order.num_batches)


def peers_pipe(folder: Path, batch: int, rank: int, world_size: int, *, workers: int = 0, **options: Any) -> Batches:
    paths = [[str(folder / f"day_{p}_{kind}.npy") for p in range(PARTS)] for kind in ("dense", "sparse", "labels")]
    pipe = InMemoryBinaryCriteoIterDataPipe(
        "train", *paths, batch_size=batch, rank=rank, world_size=world_size, **options
    )
    return lambda: iter(
        DataLoader(pipe, batch_size=None, num_workers=workers, pin_memory=False, collate_fn=lambda x: x)
    )


def tensors_of(batch: Any) -> list[torch.Tensor]:
    """What has to reach the device, of either's batches."""
    if hasattr(batch, "sparse"):
        return [batch.dense, batch.sparse.values(), batch.sparse.lengths(), batch.labels, batch.weights]
    sparse = batch.sparse_features
    return [batch.dense_features, sparse.values(), sparse.lengths(), sparse.offsets(), batch.labels]


def taken_per_s(batches: Batches) -> tuple[float, float]:
    """Samples per second of an epoch whose batches are dropped, and the nanoseconds of CPU time that a sample takes."""
    began, began_cpu = time.perf_counter(), time.process_time()
    samples = sum(len(batch.labels) for batch in batches())
    return samples / (time.perf_counter() - began), (time.process_time() - began_cpu) / samples * 1e9


def moved_per_s(batches: Batches) -> float:
    """Samples per second of an epoch whose batches are copied to buffers that stand for a device."""
    device: dict[tuple[int, torch.Size], torch.Tensor] = {}
    began = time.perf_counter()
    samples = 0
    for batch in batches():
        for i, tensor in enumerate(tensors_of(batch)):
            place = device.get((i, tensor.shape))
            if place is None:
                place = device[i, tensor.shape] = torch.empty_like(tensor)
            place.copy_(tensor)
        samples += len(batch.labels)
    return samples / (time.perf_counter() - began)


def wait_us(batches: Batches) -> float:
    """Median microseconds for which a consumer that computes for STEP_S after each batch waits for the next one."""
    waits: list[float] = []
    items = batches()
    while len(waits) < 40:
        began = time.perf_counter()
        if next(items, None) is None:
            break
        waits.append(time.perf_counter() - began)
        time.sleep(STEP_S)
    return statistics.median(waits[5:] or waits) * 1e6


def side_by_side(folder: Path, batch: int, arguments: argparse.Namespace) -> dict[str, Any]:
    """Every contender's figures at one batch size."""
    openings: dict[str, Callable[[], Batches]] = {
        f"ours, {name}, {threads} thread{'s'[: threads > 1]}": partial(ours, folder, batch, threads, order)
        for name, order in ORDERS.items()
        for threads in arguments.threads
    }
    for name, options in PEER_ORDERS.items():
        openings[f"torchrec, {name}"] = partial(peers_pipe, folder, batch, 0, 1, **options)
    contenders: dict[str, Batches] = {}
    figures: dict[str, dict[str, list[float]]] = {}
    for name, opening in openings.items():
        began = time.perf_counter()
        contenders[name] = opening()
        figures[name] = {"open_s": [time.perf_counter() - began], "taken": [], "cpu_ns": [], "moved": [], "wait_us": []}
    for round_number in range(arguments.rounds + 1):
        for name, batches in contenders.items():
            taken, cpu_ns = taken_per_s(batches)
            found = {"taken": taken, "cpu_ns": cpu_ns, "moved": moved_per_s(batches), "wait_us": wait_us(batches)}
            for what, value in found.items():
                if round_number:  # the first one warms up
                    figures[name][what].append(value)
    return {name: {what: spread(values) for what, values in found.items()} for name, found in figures.items()}


def spread(values: list[float]) -> dict[str, float]:
    return {"median": statistics.median(values), "lowest": min(values), "highest": max(values)}


def profile(folder: Path, batch: int) -> dict[str, dict[str, float]]:
    """Nanoseconds of CPU time a sample of each stage, by order, and page faults a batch."""
    source = source_of(folder)
    check = SampleCheck(source)
    found: dict[str, dict[str, float]] = {}
    for name, options in ORDERS.items():
        order = SampleOrder(source.num_samples, global_batch_size=batch, **options)
        times: dict[str, float] = dict.fromkeys(("order", "read", "check", "layout"), 0.0)
        count = min(order.num_batches, max(20, 1_000_000 // batch))
        for k in range(count):
            if k == count // 5:
                times = dict.fromkeys(times, 0.0)
                faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
            moments = [time.thread_time()]
            index_B = order.indices(1, k)
            moments.append(time.thread_time())
            samples = source.read(index_B)
            moments.append(time.thread_time())
            checked = check(samples, index_B)
            moments.append(time.thread_time())
            make_batch(checked, source.schema, size=len(index_B), global_samples=len(index_B), world_size=1)
            moments.append(time.thread_time())
            for stage, (start, end) in zip(times, itertools.pairwise(moments), strict=True):
                times[stage] += end - start
        measured = count - count // 5
        faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - faults
        found[name] = {stage: seconds / measured / batch * 1e9 for stage, seconds in times.items()}
        found[name] |= {"page_faults_per_batch": faults / measured}
    return found


def pss_kib(pid: int) -> int:
    """Proportional set size of a process: each page divided by the number of processes that map it."""
    text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    return next(int(line.split()[1]) for line in text.splitlines() if line.startswith("Pss:"))


def be_a_rank(folder: Path, what: str, rank: int, world_size: int) -> None:
    """Wait, read an epoch, wait; a line on standard output says when, one on standard input ends each wait."""
    say("ready")
    if what == "ours":
        source = source_of(folder)
        order = SampleOrder(source.num_samples, global_batch_size=16_384, shuffle=True)
        loader = BatchLoader(source, order, rank=rank, world_size=world_size, read_threads=2, prefetch_batches=4)
        kept = [loader, sum(len(batch.labels) for batch in loader.batches(0, 0, order.num_batches))]
    else:
        options = {"mmap_mode": True} if what == "torchrec, mapped" else {}
        batches = peers_pipe(folder, 16_384 // world_size, rank, world_size, **options)
        kept = [batches, moved_per_s(batches)]
    say("done")
    del kept


def say(word: str) -> None:
    print(word, flush=True)
    sys.stdin.readline()


def memory_mib(folder: Path, what: str, ranks: int) -> float:
    """MiB that the rank processes of one host have together, more than before they opened the data."""
    command = [sys.executable, __file__, "--folder", str(folder), "--rank-of", what]
    processes = [
        subprocess.Popen(
            [*command, str(rank), str(ranks)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            bufsize=1,
        )
        for rank in range(ranks)
    ]
    try:
        sums = [_after(word, processes) for word in ("ready", "done")]
    finally:
        for process in processes:
            process.communicate(timeout=60)
    return (sums[1] - sums[0]) / 1024


def _after(word: str, processes: list[subprocess.Popen[str]]) -> int:
    """The processes' PSS in KiB once all have said ``word``; then they go on."""
    for process in processes:
        if process.stdout is None or process.stdout.readline().strip() != word:
            raise RuntimeError("a rank of the memory measurement failed")
    total = sum(pss_kib(process.pid) for process in processes)
    for process in processes:
        if process.stdin is not None:
            process.stdin.write("\n")
    return total


def machine() -> dict[str, Any]:
    return {
        "cores": len(os.sched_getaffinity(0)),
        "processor": platform.processor() or platform.machine(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
    }


def table(report: dict[str, Any]) -> str:
    lines = []
    for batch, contenders in report["side_by_side"].items():
        lines += ["", f"batches of {batch}; million samples/s: median (lowest .. highest)", ""]
        lines += [f"{'':32}{'taken':>24}{'moved':>24}{'CPU, ns':>10}{'wait, us':>10}{'open, s':>10}"]
        for name, found in contenders.items():
            rest = "".join(f"{found[what]['median']:>10.{digits}f}" for what, digits in REST)
            lines += [f"{name:32}{_millions(found['taken']):>24}{_millions(found['moved']):>24}{rest}"]
    for batch, orders in report["profile"].items():
        lines += ["", f"ours, batches of {batch}, CPU time, ns/sample", ""]
        lines += [f"{name:12}" + "".join(f"  {what} {ns:.1f}" for what, ns in f.items()) for name, f in orders.items()]
    lines += ["", "memory of all ranks of a host for the data, MiB", ""]
    for name, by_ranks in report["memory_mib"].items():
        lines += [f"{name:20}" + "".join(f"  {ranks} ranks {mib:8.0f}" for ranks, mib in by_ranks.items())]
    return "\n".join(lines)


def _millions(found: dict[str, float]) -> str:
    median, lowest, highest = (found[key] / 1e6 for key in ("median", "lowest", "highest"))
    return f"{median:.2f} ({lowest:.2f} .. {highest:.2f})"


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--samples", type=int, default=4_000_000)
    parser.add_argument("--batches", type=int, nargs="+", default=[2048, 16_384])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--ranks", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--folder", type=Path, help="where files are made (and left); a temporary one if not given")
    parser.add_argument("--output", type=Path, default=ROOT / "benchmarks" / "results" / "reader.json")
    parser.add_argument("--rank-of", nargs=3, help=argparse.SUPPRESS)
    return parser.parse_args()


def main() -> None:
    arguments = parse()
    torch.set_num_threads(1)  # as torchrun sets it for ranks that share a host
    warnings.filterwarnings(
        "ignore", message="The given NumPy array is not writable"
    )  # torchrec's views of mapped files
    if arguments.rank_of:
        what, rank, world_size = arguments.rank_of
        be_a_rank(arguments.folder, what, int(rank), int(world_size))
        return
    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.folder or Path(temporary)
        if not (folder / "day_0_labels.npy").exists():
            write_files(folder, arguments.samples)
        report = {
            "machine": machine(),
            "arguments": {"samples": arguments.samples, "rounds": arguments.rounds, "threads": arguments.threads},
            "side_by_side": {str(batch): side_by_side(folder, batch, arguments) for batch in arguments.batches},
            "profile": {str(batch): profile(folder, batch) for batch in arguments.batches},
            "memory_mib": {
                what: {str(ranks): memory_mib(folder, what, ranks) for ranks in arguments.ranks}
                for what in ("ours", "torchrec", "torchrec, mapped")
            },
        }
    arguments.output.write_text(json.dumps(report, indent=1) + "\n")
    print(table(report))


if __name__ == "__main__":
    main()
