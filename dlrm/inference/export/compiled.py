"""The dense part as machine code, by AOTInductor."""

from __future__ import annotations

import platform
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from dlrm.errors import ConfigError
from dlrm.inference.export.dense_program import quiet
from dlrm.inference.export.write import FolderWriter
from dlrm.inference.exported.manifest import COMPILED_NAME, CompiledRecord


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
    say("compiling the dense part (some ten seconds) ...")
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings(), quiet():
        warnings.simplefilter("ignore")
        path = str(Path(folder) / COMPILED_NAME)
        try:
            torch._inductor.aoti_compile_and_package(program, package_path=path, inductor_configs=_options())
        except Exception as error:
            reason = f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0][:200]}"
            raise ConfigError.at("compile", f"the dense part cannot be compiled here ({reason})") from error
        writer.add(COMPILED_NAME, Path(path).read_bytes())
    return CompiledRecord(machine=platform.machine(), capability=torch.backends.cpu.get_cpu_capability())


def _options() -> dict[str, Any]:
    if platform.machine() != "x86_64":
        return {}
    # Else it is compiled for all that this very processor can do, which no word for a kind of processor says.
    return {"cpp.march": "x86-64-v3"}
