"""Compile the pretended CUDA: ``librehearsal.so``, to be preloaded, and stand-ins for two libraries of the driver."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sysconfig
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

RUNTIME = Path(__file__).resolve().parent / "runtime"
# Parameters are CUDA's, and most are of no interest here.
FLAGS = ("-std=gnu11", "-O2", "-fPIC", "-shared", "-Wall", "-Wno-unused-parameter", "-fvisibility=hidden")
DRIVER = {"libcuda.so.1": ("driver.c",), "libnvidia-ml.so.1": ("nvml.c",)}
_INCLUDE_FOLDERS = ("nvidia/cu*/include", "nvidia/cuda_runtime/include", "triton/backends/nvidia/include")


class CannotBuildError(Exception):
    """What is missing, in a line."""


@dataclass(frozen=True)
class Built:
    """Attributes: preload: for LD_PRELOAD; folder: for LD_LIBRARY_PATH."""

    preload: Path
    folder: Path


def cuda_headers() -> list[Path]:
    """Folders with CUDA's headers, those of the wheels in this environment first.

    Raises:
        CannotBuildError: there are none.
    """
    site = Path(sysconfig.get_path("purelib"))
    folders = [found for pattern in _INCLUDE_FOLDERS for found in sorted(site.glob(pattern))]
    folders += [Path("/usr/local/cuda/include")]
    # The runtime's wheel has cuda_runtime_api.h without crt/; triton's has both, so the first complete folder is enough.
    complete = [folder for folder in folders if (folder / "cuda_runtime_api.h").exists() and (folder / "crt").is_dir()]
    if not complete:
        raise CannotBuildError(
            "no CUDA headers (cuda_runtime_api.h and crt/): install torch's CUDA wheels, or a toolkit"
        )
    return complete[:1]


def do_nothing(sections: set[str]) -> Iterator[str]:
    """The lines of C for the functions of do_nothing.txt in these sections."""
    yield '#include "counters.h"'
    section = ""
    for line in (RUNTIME / "do_nothing.txt").read_text().splitlines():
        if line.startswith("["):
            section = line.strip("[]")
        elif line and not line.startswith("#") and section in sections:
            counted = "count(BLAS, 0); " if section == "blas computes" else ""
            yield f"API int {line}(void) {{ {counted}return 0; }}"


def build(cache: Path) -> Built:
    """Compile into a folder of the cache that is named by the sources; nothing to do if it is there.

    Raises:
        CannotBuildError: there is no compiler or there are no headers, or the compiler refuses.
    """
    folder = cache / _fingerprint()
    preload = folder / "librehearsal.so"  # made last
    if preload.exists():
        return Built(preload, folder)
    folder.mkdir(parents=True, exist_ok=True)
    headers = [f"-I{header}" for header in cuda_headers()]
    named = {source for sources in DRIVER.values() for source in sources}
    sources = [source.name for source in sorted(RUNTIME.glob("*.c")) if source.name not in named]
    for name, of in DRIVER.items():
        compile_library(folder / name, of, do_nothing({"driver"} if "driver.c" in of else set()), [])
    compile_library(preload, sources, do_nothing({"cuda", "blas", "blas computes", "nccl"}), [*headers, "-lpthread"])
    return Built(preload, folder)


def _fingerprint() -> str:
    contents = [source.read_bytes() for source in (*sorted(RUNTIME.iterdir()), Path(__file__))]
    return hashlib.sha256(b"".join(contents)).hexdigest()[:16]


def compile_library(out: Path, sources: Sequence[str], generated: Iterator[str], options: Sequence[str]) -> None:
    """Compile files of the runtime, and generated lines with them, into a library.

    Raises:
        CannotBuildError: there is no compiler, or it refuses.
    """
    compiler = shutil.which("cc")
    if compiler is None:
        raise CannotBuildError("no C compiler (cc) on the path: install gcc or clang")
    with tempfile.TemporaryDirectory(dir=out.parent) as scratch:
        stubs, made = Path(scratch, "do_nothing.c"), Path(scratch, out.name)
        stubs.write_text("\n".join(generated) + "\n")
        command = [compiler, *FLAGS, f"-I{RUNTIME}", "-o", str(made), str(stubs), *(str(RUNTIME / s) for s in sources)]
        done = subprocess.run([*command, *options], capture_output=True, text=True, check=False)
        if done.returncode:
            raise CannotBuildError(f"{compiler} refuses {out.name}:\n{done.stderr}")
        made.replace(out)  # whole or not at all: another rehearsal may be starting
