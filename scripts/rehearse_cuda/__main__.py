"""Rehearse a training run on CUDA devices that are not there.

    python -m scripts.rehearse_cuda [--ranks 2 | --solo 0/8/8] -- train --config configs/quickstart.yaml ...
    python -m scripts.rehearse_cuda --matrix sample | all [--only REGEX]

Needs torch and fbgemm-gpu built for CUDA (make rehearse-install) and a C compiler; docs/rehearsal.md has the rest. Exit
code 1 if the job fails, or if the host waits for the device (or copies pageable memory) in a step where it need not.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from scripts.rehearse_cuda.build import CannotBuildError
from scripts.rehearse_cuda.job import Asked, Device, Solo, rehearse
from scripts.rehearse_cuda.matrix import AT_ONCE, rehearse_matrix
from scripts.rehearse_cuda.report import read_known


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m scripts.rehearse_cuda", description=__doc__.splitlines()[0])
    parser.add_argument("--ranks", type=int, default=1, help="real ranks, a process each (default 1)")
    parser.add_argument("--solo", type=Solo.parse, help="RANK/WORLD/LOCAL: one rank of a world with LOCAL ranks a host")
    parser.add_argument("--devices", type=int, default=8, help="devices of a host (default 8)")
    parser.add_argument("--gib", type=float, default=80.0, help="memory of a device (default 80)")
    parser.add_argument("--name", default="rehearsed H100", help="what a device calls itself")
    parser.add_argument("--warmup", type=int, default=12, help="steps that do not count (default 12)")
    parser.add_argument(
        "--arithmetic", action="store_true", help="compute floating point, too: the losses are those of a CPU"
    )
    parser.add_argument("--launches", action="store_true", help="say where kernels are launched, too")
    parser.add_argument("--json", type=Path, help="file for the report")
    parser.add_argument("--matrix", choices=("sample", "all"), help="rehearse many configurations")
    parser.add_argument("--only", default="", help="of the matrix: regular expression of the names of the cases wanted")
    parser.add_argument("--write-counts", action="store_true", help="of the matrix: write counts.json anew")
    parser.add_argument(
        "--at-once", type=int, default=AT_ONCE, help=f"of the matrix: cases at once (default {AT_ONCE})"
    )
    parser.add_argument("words", nargs=argparse.REMAINDER, help="of dlrm_main.py, after --")
    options = parser.parse_args()
    words = options.words[1:] if options.words[:1] == ["--"] else options.words
    try:
        if options.matrix:
            return rehearse_matrix(
                options.matrix, options.only, options.json, write=options.write_counts, at_once=options.at_once
            )
        if not words:
            parser.error("say what to rehearse: -- train --config configs/quickstart.yaml")
        device = Device(options.name, options.gib, options.devices)
        asked = Asked(
            tuple(words), options.ranks, options.solo, device, options.warmup, options.arithmetic, options.launches
        )
        return rehearse(asked, read_known(), json_file=options.json)
    except CannotBuildError as error:
        print(error, file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
