"""What the forms of the dense part take that are not always asked for: a compiler, packages."""

from __future__ import annotations

import importlib.util
import os
import shutil

from dlrm.errors import ConfigError

_COMPILERS = ("g++", "clang++", "c++")
_PACKAGES = ("onnx", "onnxscript")


def require_extras(*, compiled: bool, onnx: bool) -> None:
    """See before anything is read that what is needed is there.

    Raises:
        ConfigError: it is not; what to install.
    """
    if compiled and compiler() is None:
        message = "needs a C++ compiler, and there is none; install g++, or set CXX to another"
        raise ConfigError.at("compile", message)
    missing = [name for name in _PACKAGES if importlib.util.find_spec(name) is None] if onnx else []
    if missing:
        message = f"needs {' and '.join(missing)}; install with: pip install {' '.join(_PACKAGES)}"
        raise ConfigError.at("onnx", message)


def compiler() -> str | None:
    """The C++ compiler that torch would take; None if there is none."""
    named = os.environ.get("CXX")
    return shutil.which(named) if named else next(filter(None, map(shutil.which, _COMPILERS)), None)
