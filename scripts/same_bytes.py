"""Whether preprocess writes the same bytes as at another commit, and ends with the same messages.

    python -m scripts.same_bytes 964aa34 [--only shuffled]

Raw rows are made of a seed: three files with missing fields, long integers, decimals, other ends of lines, and copies that
are compressed, damaged or cut off. Each case is run with the package of both commits. Every file that it leaves is compared
by SHA-256, and so is the error that it ends with, if it does. Exit code 1 if anything differs. It takes a minute or two.
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import json
import os
import random
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
ROWS = (23_000, 31_000, 17_001)
SMALL = ("--chunk_mib=1",)
SPLIT = (
    '--split.train=["day_1[1000:]", "day_0[:0.7]"]',
    '--split.validation=["day_1[:500]"]',
    "--split.test=[day_2]",
)
CASES: dict[str, tuple[str, ...]] = {  # the folder of the raw files, and options
    "plain": ("tsv",),
    "shuffled": ("tsv", "--shuffle=true", "--seed=3"),
    "shuffled, small buckets, four workers": ("tsv", "--shuffle=true", "--workers=4", "--bucket_rows=3000", *SMALL),
    "one worker": ("tsv", "--workers=1", "--shuffle=true", "--bucket_rows=20000"),
    "rare categories of all rows": ("tsv", "--categories.min_count=3", "--categories.of=all"),
    "rare categories, shuffled": ("tsv", "--categories.min_count=4", "--shuffle=true"),
    "MLPerf's reserved ids": ("tsv", "--categories.of=all", "--categories.reserved=mlperf", "--shuffle=true"),
    "hashing": ("tsv", "--categories.kind=hashing", "--categories.rows=1000"),
    "hashing to int64": ("tsv", "--categories.kind=hashing", "--categories.rows=3000000000", "--shuffle=true"),
    "days, shuffled": ("tsv", "--parts.kind=days", "--parts.days=5", "--shuffle=true", *SMALL),
    "days": ("tsv", "--parts.kind=days", "--parts.days=7", *SMALL),
    "split inside parts, shuffled": ("tsv", *SPLIT, "--shuffle=true", "--categories.min_count=2", *SMALL),
    "split inside parts": ("tsv", *SPLIT, "--categories.min_count=2", *SMALL),
    "all for training": ("tsv", "--split.train=[day_0..day_2]", "--shuffle=true", "--categories.of=all"),
    "dense options": ("tsv", "--dense.shift=2000.5", "--dense.minimum=-2000.25", "--dense.missing=-7.5"),
    "gzip": ("gz", "--shuffle=true", *SMALL),
    "bad rows": ("bad",),
    "bad rows skipped": ("bad", "--bad_rows=skip", *SMALL),
    "bad rows skipped, shuffled": ("bad", "--bad_rows=skip", "--shuffle=true", *SMALL),
    "bad rows skipped, days": (
        "bad",
        "--bad_rows=skip",
        "--shuffle=true",
        "--parts.kind=days",
        "--parts.days=4",
        *SMALL,
    ),
    "other columns": ("wide", "--num_dense=1", "--num_sparse=40", "--shuffle=true"),
    "no input": ("absent",),
    "a part that is not there": ("tsv", "--split.train=[day_9]"),
    "gzip cut off": ("cut",),
    "nothing but bad rows": ("nothing", "--bad_rows=skip"),
}


def raw_rows(count: int, seed: int, num_dense: int = 13, num_sparse: int = 26) -> Iterator[str]:
    """Lines of Criteo's format."""
    draw, words = np.random.default_rng(seed), random.Random(seed)
    labels = draw.random(count) < 0.3
    integers = draw.integers(-4, 3000, (count, num_dense))
    large = draw.random((count, num_dense)) < 0.01
    integers = np.where(large, draw.integers(-(10**17), 10**17, (count, num_dense)), integers)
    no_integer, no_category = draw.random((count, num_dense)) < 0.2, draw.random((count, num_sparse)) < 0.1
    zipf = draw.zipf(1.2, (count, num_sparse)).astype(np.uint64)
    categories = (zipf * np.uint64(2654435761) + np.arange(num_sparse, dtype=np.uint64)) % np.uint64(2**32)
    end = "\r\n" if seed == 1 else "\n"
    for i in range(count):
        dense = [
            "" if no_integer[i, n] else f"{integers[i, n]}{'.0' if words.random() < 0.05 else ''}"
            for n in range(num_dense)
        ]
        sparse = [
            "" if no_category[i, f] else format(int(categories[i, f]), "08x" if words.random() < 0.9 else "X")
            for f in range(num_sparse)
        ]
        yield "\t".join((str(int(labels[i])), *dense, *sparse)) + end


def write_raw(folder: Path) -> None:
    """The files of all cases."""
    for kind in ("tsv", "gz", "bad", "wide", "cut", "nothing"):
        (folder / kind).mkdir()
    for day, count in enumerate(ROWS):
        text = "".join(raw_rows(count, day)).encode()
        text = text[:-1] if day == 2 else text
        compressed = gzip.compress(text, 1, mtime=0)
        lines, words = text.split(b"\n"), random.Random(day)
        for at in [*((5, 6, 7) if day else ()), *(words.randrange(2000, len(lines) - 1) for _ in range(300))]:
            line = lines[at]
            lines[at] = words.choice(
                [b"", b"x", line + b"\t", line[:40], b"2" + line[1:], line.replace(b"\t", b"\tz", 20)]
            )
        (folder / "tsv" / f"day_{day}").write_bytes(text)
        (folder / "gz" / f"day_{day}.gz").write_bytes(compressed)
        (folder / "cut" / f"day_{day}.gz").write_bytes(compressed[: -500 if day else None])
        (folder / "bad" / f"day_{day}").write_bytes(b"\n".join(lines))
        (folder / "wide" / f"day_{day}").write_text("".join(raw_rows(count // 4, day + 10, 1, 40)))
        (folder / "nothing" / f"day_{day}").write_text("nothing\t1\n" * 500)


def run_here(raw: Path, wanted: list[str]) -> dict[str, dict[str, str]]:
    """Of each case the files that the package of the working directory leaves, by name, with their checksums."""
    from dlrm.config import load_options
    from dlrm.config.prepare import PreprocessConfig
    from dlrm.distributed.collectives import OneProcess
    from dlrm.errors import DlrmError

    try:
        from dlrm.preprocess.job import preprocess
    except ImportError:  # of a commit where it lay elsewhere
        from dlrm.prepare.preprocess.job import preprocess  # type: ignore[import-not-found,no-redef,unused-ignore]

    found: dict[str, dict[str, str]] = {}
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)  # names of folders are the same for both
        for name in wanted:
            kind, *options = CASES[name]
            output = re.sub(r"\W+", "_", name)
            found[name] = {}
            try:
                arguments = [f"--input={raw / kind}", f"--output={output}", *options]
                config = load_options(PreprocessConfig, None, arguments)
                preprocess(config, OneProcess(), chunk_bytes=config.chunk_mib << 20)
            except DlrmError as error:
                found[name]["ends with"] = str(error)
            for path in sorted(Path(output).rglob("*")):
                if path.is_file() and "preprocess.work" not in path.parts:
                    found[name][str(path)] = hashlib.sha256(path.read_bytes()).hexdigest()
    return found


def run_in(root: Path, raw: Path, wanted: list[str]) -> dict[str, dict[str, str]]:
    """The same with the package of a folder, in a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "found.json")
        script = [sys.executable, __file__, "--here", str(raw), json.dumps(wanted), str(file)]
        environment = {**os.environ, "PYTHONPATH": str(root)}
        subprocess.run(script, cwd=root, env=environment, check=True, stdout=subprocess.DEVNULL)
        found: dict[str, dict[str, str]] = json.loads(file.read_text())
        return found


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("commit")
    parser.add_argument("--only", default="", help="regular expression of the names of the cases wanted")
    options = parser.parse_args()
    wanted = [name for name in CASES if re.search(options.only, name)]
    with tempfile.TemporaryDirectory() as folder:
        raw, other = Path(folder, "raw"), Path(folder, "other")
        raw.mkdir()
        write_raw(raw)
        git = ["git", "-C", str(ROOT), "worktree"]
        subprocess.run([*git, "add", "--quiet", "--detach", str(other), options.commit], check=True)
        try:
            before = run_in(other, raw, wanted)
        finally:
            subprocess.run([*git, "remove", "--force", str(other)], check=True)
        now = run_in(ROOT, raw, wanted)
    differing = 0
    for name in wanted:
        files = sorted(before[name].keys() | now[name].keys())
        others = [file for file in files if before[name].get(file) != now[name].get(file)]
        differing += bool(others)
        print(f"{name:40s} {f'DIFFERS: {others}' if others else f'{len(files)} files or messages are equal'}")
    print(f"{len(wanted) - differing} of {len(wanted)} cases are equal, byte for byte, to those of {options.commit}")
    sys.exit(1 if differing else 0)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--here"]:  # with the package that PYTHONPATH leads to
        Path(sys.argv[4]).write_text(json.dumps(run_here(Path(sys.argv[2]), json.loads(sys.argv[3]))))
    else:
        main()
