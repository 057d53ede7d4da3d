"""What the project leans on in its libraries although nobody promises to keep it, held to by one test a hook.

A hook is a private name, an attribute that no documentation has, or a method that is wrapped or overridden. Where a new
version changes one, its test fails with the hook's name, who leans on it and what to look at.
"""

from __future__ import annotations

import ast
import functools
from collections.abc import Callable
from importlib import metadata
from pathlib import Path

from dlrm.distributed.versions import Installed

ROOT = Path(__file__).resolve().parents[3]
HELD: set[str] = set()
"""Names of hooks that have a test."""
_DOCUMENTED = {"_exit", "_replace", "_current_frames"}  # of os, of named tuples, of sys


def hook(*names: str, of: str, used_in: str, see: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Of a test: if it fails, say that hooks of a package have changed, who leans on them and what to look at."""
    HELD.update(names)

    def decorate(test: Callable[..., None]) -> Callable[..., None]:
        @functools.wraps(test)
        def held(*arguments: object, **named: object) -> None:
            try:
                test(*arguments, **named)
            except Exception as error:
                what = f"{', '.join(names)} of {of} {_version(of)} is not what {used_in} leans on"
                raise AssertionError(f"{what} ({type(error).__name__}: {error}); look at {see}") from error

        return held

    return decorate


def _version(package: str) -> str:
    return ", ".join(Installed.here().fbgemm.values()) if package == "fbgemm" else metadata.version(package)


def private_names_of_others() -> dict[str, str]:
    """Names with a leading underscore that the code takes from elsewhere, each with a place where it does."""
    places = [path for top in ("dlrm", "launch", "components") for path in (ROOT / top).rglob("*.py")]
    trees = {path: ast.parse(path.read_text()) for path in (ROOT / "dlrm_main.py", *places)}
    nodes = [(f"{path.relative_to(ROOT)}", node) for path, tree in trees.items() for node in ast.walk(tree)]
    own = {node.name for _, node in nodes if isinstance(node, ast.FunctionDef | ast.ClassDef)}
    own |= {node.id for _, node in nodes if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}
    own |= {node.attr for _, node in nodes if isinstance(node, ast.Attribute) and _is_self(node.value)}
    found: dict[str, str] = {}
    for path, node in nodes:
        for name in _names_from_elsewhere(node, own):
            if name.startswith("_") and not name.startswith("__") and name not in _DOCUMENTED:
                found[name] = f"{path}:{getattr(node, 'lineno', '')}"
    return found


def _names_from_elsewhere(node: ast.AST, own: set[str]) -> list[str]:
    """Attributes of anything but ``self`` that no class here has, and parts of what is imported."""
    match node:
        case ast.Attribute() if not _is_self(node.value) and node.attr not in own:
            return [node.attr]
        case ast.ImportFrom() if not (node.module or "").startswith(("dlrm", "__future__")):
            return [*(node.module or "").split("."), *(alias.name for alias in node.names)]
        case ast.Import():
            return [part for alias in node.names for part in alias.name.split(".")]
    return []


def _is_self(node: ast.expr) -> bool:
    return isinstance(node, ast.Name) and node.id in ("self", "cls")
