"""The dense part as machine code, by AOTInductor."""

from __future__ import annotations

import io
import json
import platform
import re
import shutil
import subprocess
import tempfile
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from dlrm.errors import ConfigError
from dlrm.inference.export.dense_program import quiet
from dlrm.inference.export.write import FolderWriter
from dlrm.inference.exported.manifest import COMPILED_NAME, CompiledRecord

_MOMENT = (1980, 1, 1, 0, 0, 0)
_FOLDERS = re.compile(rb"/[\w/.+-]*/(?=torch/include/|c[a-z0-9]{40,60}[./])")
"""Of the machine that compiles, in the names of source files that messages of checks hold."""
_FLAGS = {
    "AVX2": ("avx2", "fma"),
    "AVX512": ("avx512f", "avx512dq", "avx512vl", "avx512bw", "fma"),
    "AVX512_VNNI": ("avx512_vnni",),
    "AMX_TILE": ("amx_tile", "amx_bf16", "amx_int8"),
}
_X86_64_V3 = ("avx2", "bmi1", "bmi2", "f16c", "fma", "abm", "movbe")


def write_compiled(
    program: torch.export.ExportedProgram, writer: FolderWriter, say: Callable[[str], None]
) -> CompiledRecord:
    """Write ``dense_compiled.pt2``.

    Args:
        program: the dense part, just exported.
        writer: of the folder.
        say: is told that it takes a while.

    Returns:
        the machines that can run it.

    Raises:
        ConfigError: the compiler fails.
    """
    say("compiling the dense part, which takes some ten seconds ...")
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings(), quiet():
        warnings.simplefilter("ignore")
        path = Path(folder) / COMPILED_NAME
        try:
            torch._inductor.aoti_compile_and_package(program, package_path=str(path), inductor_configs=_options())
        except Exception as error:
            reason = f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0][:200]}"
            raise ConfigError.at("compile", f"the dense part cannot be compiled here ({reason})") from error
        package, kind = plain_package(path.read_bytes(), Path(folder))
    writer.add(COMPILED_NAME, package)
    words = kind.split()
    flags = {*_X86_64_V3, *(flag for word in words for flag in _FLAGS.get(word, (word.lower(),)))}
    return CompiledRecord(
        machine=platform.machine(),
        capability=torch.backends.cpu.get_cpu_capability(),
        instructions=tuple(sorted(flags)) if platform.machine() == "x86_64" else (),
    )


def _options() -> dict[str, Any]:
    # As many threads as this machine has are else part of the code, whatever the caller's torch is set to.
    options: dict[str, Any] = {"cpp.threads": 1}
    if platform.machine() == "x86_64":
        # Else it is compiled for all that this very processor can do, which no word for a kind of processor says.
        options["cpp.march"] = "x86-64-v3"
    return options


def plain_package(package: bytes, folder: Path) -> tuple[bytes, str]:
    """A package without its source code and names of folders.

    Args:
        package: of AOTInductor.
        folder: for files that are needed meanwhile.

    Returns:
        the package; the instructions that it is compiled for, as torch calls them.
    """
    plain, kind = io.BytesIO(), ""
    with zipfile.ZipFile(io.BytesIO(package)) as source, zipfile.ZipFile(plain, "w") as target:
        for member in source.infolist():
            name, data = member.filename, source.read(member)
            if name.endswith((".cpp", ".kernel_metadata.json")):
                continue
            if name.endswith(".wrapper_metadata.json"):
                kind = json.loads(data).get("AOTI_CPU_ISA", "")
            if name.endswith(".so"):
                data = _FOLDERS.sub(lambda found: b"." * len(found[0]), _stripped(data, folder / "wrapper.so"))
            elif name.endswith("serialization_id"):
                data = b"0" * len(data)
            target.writestr(zipfile.ZipInfo(name, _MOMENT), data)
    return plain.getvalue(), kind


def _stripped(library: bytes, path: Path) -> bytes:
    """A library without what only debuggers read, where there is a program that removes it."""
    strip = shutil.which("strip")
    if strip is None:
        return library
    path.write_bytes(library)
    done = subprocess.run([strip, "--strip-unneeded", str(path)], capture_output=True, check=False)
    return library if done.returncode else path.read_bytes()
