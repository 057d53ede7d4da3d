"""Inject faults into the storage of checkpoints and count what came of each.

    .venv/bin/python -m benchmarks.checkpoint_faults [--damages 1000] [--seed 0]

Two parts: (1) each kind of fault (a call that fails once with EIO or ENOSPC, a disk that is full from a call on, a write
that tears, a process that dies at a call or within a write) at every call of the storage that saving and pruning make,
and EIO at every call of loading; (2) damage that nobody reports: files truncated, lengthened, gone, of another checkpoint,
with flipped bits, zeros or moved bytes at random places. After each fault resuming has to find a checkpoint, the newest
whose bytes are all as they were written, and load exactly these; and saving and pruning have to work again. The first
fault after which they do not ends this with a traceback.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections import Counter
from pathlib import Path

from tests.unit.checkpoint.campaign import every_call, random_damage, scratch


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--damages", type=int, default=1000, help="how many unreported damages")
    parser.add_argument("--seed", type=int, default=0, help="of the damages")
    options = parser.parse_args()
    began = time.monotonic()
    with tempfile.TemporaryDirectory(dir=scratch()) as folder:
        outcomes = Counter(every_call(Path(folder) / "run"))
        outcomes.update(random_damage(Path(folder) / "run", options.damages, options.seed))
    for outcome, count in sorted(outcomes.items()):
        print(f"{count:6}  {outcome}")
    injected = sum(count for outcome, count in outcomes.items() if not outcome.endswith("not met"))
    print(f"{injected:6}  faults in {time.monotonic() - began:.0f} s: no wrong byte loaded, a good checkpoint always")


if __name__ == "__main__":
    main()
