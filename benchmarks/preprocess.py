#!/usr/bin/env python3
"""Preprocessing against torchrec's BinaryCriteoUtils, on the same generated raw files, alternating in one run; and memory.

    .venv/bin/python benchmarks/preprocess.py                        rows/s of both, 3 alternations of 1,000,000 rows
    .venv/bin/python benchmarks/preprocess.py --memory 10 40         peak memory for 10 and 40 million rows (ours only)
    .venv/bin/python benchmarks/preprocess.py --floor                what the kernel takes for the bytes alone

Both parse two days of raw rows, give categories contiguous ids over all rows, shuffle all of them and write .npy
files: the steps of the reference are tsv_to_npys, sparse_to_contiguous (no frequency threshold) and shuffle. Times are
those of the work itself in a fresh process each, without interpreter start and imports; ours is given two threads, and
the packages of requirements/runtime.txt: scipy comes with the tests' packages, and where it is there numba imports it at
its first call, which takes 0.15 s (the other 0.3 s of that call are counted). The files are in the page cache for both.
Each figure is the median of the alternations; all of them are kept in benchmarks/results/preprocess.json.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))  # run from a checkout, where the package is not installed
RESULTS = ROOT / "benchmarks" / "results" / "preprocess.json"
FILES = 2

OURS = """
import sys, time
sys.modules["scipy"] = None
from dlrm.config import load_options
from dlrm.config.prepare import PreprocessConfig
from dlrm.preprocess.job import run_preprocess
config = load_options(PreprocessConfig, None, sys.argv[1:])
began = time.perf_counter()
run_preprocess(config)
print("seconds", time.perf_counter() - began)
"""

REFERENCE = """
import contextlib, io, os, sys, time, warnings
warnings.simplefilter("ignore")
from torchrec.datasets.criteo import BinaryCriteoUtils
raw, out, files = sys.argv[1], sys.argv[2], int(sys.argv[3])
for folder in ("npy", "contiguous", "shuffled"):
    os.makedirs(f"{out}/{folder}")
began = time.perf_counter()
with contextlib.redirect_stdout(io.StringIO()):
    for day in range(files):
        names = [f"{out}/npy/day_{day}_{kind}.npy" for kind in ("dense", "sparse", "labels")]
        BinaryCriteoUtils.tsv_to_npys(f"{raw}/day_{day}", *names)
    parsed = time.perf_counter()
    sparse = [f"{out}/npy/day_{day}_sparse.npy" for day in range(files)]
    BinaryCriteoUtils.sparse_to_contiguous(sparse, f"{out}/contiguous", frequency_threshold=0, output_file_suffix=".npy")
    contiguous = time.perf_counter()
    rows = {day: BinaryCriteoUtils.get_shape_from_npy(f"{out}/npy/day_{day}_labels.npy")[0] for day in range(files)}
    # Its shuffle takes the days but the last: one more, empty of meaning here, has it shuffle all of them.
    for kind, folder in (("dense", "npy"), ("sparse", "contiguous"), ("labels", "npy")):
        os.link(f"{out}/{folder}/day_0_{kind}.npy", f"{out}/{folder}/day_{files}_{kind}.npy")
    BinaryCriteoUtils.shuffle(f"{out}/npy", f"{out}/contiguous", f"{out}/shuffled", rows, days=files + 1)
ended = time.perf_counter()
print("parse", parsed - began, "contiguous", contiguous - parsed, "shuffle", ended - contiguous, "seconds", ended - began)
"""


def ours(raw: Path, out: Path, workers: int) -> dict[str, float]:
    """Seconds and peak memory of one run of ours."""
    options = (f"--input={raw}", f"--output={out}/packed", f"--workers={workers}", "--shuffle=true")
    whole = ("--split.train=[day_0..day_1]", "--categories.of=all")  # all rows are shuffled, as the reference does
    return timed([sys.executable, "-c", OURS, *options, *whole])


def reference(raw: Path, out: Path) -> dict[str, float]:
    """Seconds of each step of one run of torchrec's utilities."""
    return timed([sys.executable, "-c", REFERENCE, str(raw), str(out), str(FILES)])


def timed(command: list[str]) -> dict[str, float]:
    """What the command says of its times, and its peak memory."""
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    peak = PeakAnonymous(process.pid)
    output, _ = process.communicate()
    if process.returncode:
        sys.exit(f"failed with exit code {process.returncode}: {' '.join(command[3:])}")
    words = output.strip().splitlines()[-1].split()
    figures = {name: float(value) for name, value in zip(words[::2], words[1::2], strict=True)}
    return {**figures, **peak.stop()}


class PeakAnonymous:
    """Peak memory of a process, read every 20 ms: resident in all, and the part that is not the pages of files."""

    def __init__(self, pid: int) -> None:
        self._status = Path(f"/proc/{pid}/status")
        self._peak = {"resident_gib": 0.0, "anonymous_gib": 0.0}
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def stop(self) -> dict[str, float]:
        self._ended.set()
        self._thread.join()
        return self._peak

    def _watch(self) -> None:
        names = {"VmHWM:": "resident_gib", "RssAnon:": "anonymous_gib"}
        while not self._ended.wait(0.02):
            try:
                lines = self._status.read_text().splitlines()
            except (FileNotFoundError, ProcessLookupError):
                return
            for line in lines:
                name, *values = line.split()
                if name in names:
                    gib = int(values[0]) / 2**20
                    self._peak[names[name]] = max(self._peak[names[name]], gib)


def compare(folder: Path, *, rows: int, repeats: int, workers: int) -> dict[str, Any]:
    """Both on the same files, in turn."""
    from benchmarks.raw_rows import write_raw

    raw = folder / "raw"
    write_raw(raw, rows=rows, files=FILES)
    print(f"{rows:,} rows in {FILES} files; {repeats} alternations, ours with {workers} threads", flush=True)
    warm = folder / "warm"
    write_raw(warm / "raw", rows=2000, files=FILES)
    ours(warm / "raw", warm, workers)  # compiles numba's functions, once an installation
    runs: dict[str, list[dict[str, float]]] = {"ours": [], "reference": []}
    for _ in range(repeats):
        for name, run in (
            ("ours", lambda out: ours(raw, out, workers)),
            ("reference", lambda out: reference(raw, out)),
        ):
            out = folder / name
            out.mkdir()
            runs[name].append(run(out))
            shutil.rmtree(out)
            print(f"  {name:10} {rows / runs[name][-1]['seconds']:>12,.0f} rows/s  {runs[name][-1]}", flush=True)
    rates = {name: [rows / run["seconds"] for run in found] for name, found in runs.items()}
    ratios = [a / b for a, b in zip(rates["ours"], rates["reference"], strict=True)]
    print(f"  ratio of the pairs: median {statistics.median(ratios):.1f} ({min(ratios):.1f} .. {max(ratios):.1f})")
    return {
        "rows": rows,
        "workers": workers,
        "ours_rows_per_s": rates["ours"],
        "reference_rows_per_s": rates["reference"],
        "ratio_median": statistics.median(ratios),
        "ratios": ratios,
        "runs": runs,
    }


def memory(folder: Path, *, million_rows: list[float], workers: int) -> list[dict[str, Any]]:
    """Peak memory and speed of ours for several lengths."""
    from benchmarks.raw_rows import write_raw

    found = []
    for millions in million_rows:
        rows = int(millions * 1e6)
        raw, out = folder / "raw", folder / "out"
        write_raw(raw, rows=rows, files=FILES)
        out.mkdir()
        figures = ours(raw, out, workers)
        found.append({"rows": rows, "workers": workers, "rows_per_s": rows / figures["seconds"], **figures})
        print(f"  {rows:,} rows: {json.dumps(found[-1])}", flush=True)
        shutil.rmtree(raw)
        shutil.rmtree(out)
    return found


def floor(folder: Path, *, rows: int, repeats: int) -> dict[str, Any]:
    """Processor seconds, by step, of a program that moves the bytes that ours has to move, and does nothing else."""
    from benchmarks.raw_rows import write_raw

    raw = folder / "raw"
    write_raw(raw, rows=rows, files=FILES)
    steps: dict[str, list[float]] = {}
    block = memoryview(os.urandom(1 << 24))

    def timed_step(name: str, step: Callable[[], None]) -> None:
        began = os.times()
        step()
        ended = os.times()
        steps.setdefault(name, []).append(ended.user + ended.system - began.user - began.system)

    def write(name: str, size: int) -> None:
        with open(folder / name, "wb", buffering=0) as file:
            for start in range(0, size, len(block)):
                file.write(block[: size - start])
            os.fdatasync(file.fileno())

    def read(path: Path) -> None:
        buffer = bytearray(len(block))
        with open(path, "rb", buffering=0) as file:
            while file.readinto(buffer):
                pass

    for _ in range(repeats):
        timed_step("text read", lambda: [read(path) for path in raw.iterdir()] and None)
        timed_step("rows written once, 164 bytes each", lambda: write("parsed", 164 * rows))
        timed_step("rows read", lambda: read(folder / "parsed"))
        timed_step("rows written again, 160 bytes each", lambda: write("packed", 160 * rows))
        timed_step("rows read for their SHA-256", lambda: read(folder / "packed"))
        (folder / "parsed").unlink()
        (folder / "packed").unlink()
        time.sleep(5)  # a virtual machine gives freed memory back to its host meanwhile, as it does while others run
    shown = {name: statistics.median(found) for name, found in steps.items()}
    total = [sum(found) for found in zip(*steps.values(), strict=True)]
    print(
        f"{rows:,} rows: {statistics.median(total):.2f} s ({min(total):.2f} .. {max(total):.2f}) of processor time: {shown}"
    )
    return {"rows": rows, "total_s": total, "steps_s": steps}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--rows", type=int, default=1_000_000, help="rows to compare on; the reference needs 2 KB a row"
    )
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--memory", type=float, nargs="*", help="millions of rows, instead of the comparison")
    parser.add_argument("--floor", action="store_true", help="bytes moved and nothing else, instead of the comparison")
    parser.add_argument(
        "--folder", type=Path, help="where to work; needs about 1.2 KB a row (default: a temporary one)"
    )
    given = parser.parse_args()
    results = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    results["machine"] = {"cores": os.cpu_count(), "processor": platform.processor() or platform.machine()}
    with tempfile.TemporaryDirectory(dir=given.folder) as name:
        began = time.time()
        if given.memory:
            results["memory"] = memory(Path(name), million_rows=given.memory, workers=given.workers)
        elif given.floor:
            results["floor"] = floor(Path(name), rows=given.rows, repeats=given.repeats)
        else:
            found = compare(Path(name), rows=given.rows, repeats=given.repeats, workers=given.workers)
            results.setdefault("comparisons", {})[f"{given.rows:,} rows"] = found
        print(f"took {time.time() - began:.0f} s")
    RESULTS.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
