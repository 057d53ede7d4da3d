"""How large the code is, of two commits side by side, as a table in Markdown.

    python -m scripts.figures 964aa34 HEAD      each a commit, or a folder that holds a checkout

The table has three parts:

- files and lines of each package of ``dlrm/``; comments and empty lines count;
- functions: how many, the median of their lines, and the ten longest. Docstrings count, decorators do not;
- the path to the first step: ``dlrm_main.py train`` runs on one rank with ``configs/quickstart.yaml`` up to the first
  backward pass. Counted are the files of the package that were imported until then, and their functions that were entered.

A commit is checked out beside, and runs with the packages of this environment.
"""

from __future__ import annotations

import argparse
import ast
import inspect
import json
import os
import runpy
import statistics
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
RUN = ["train", "--config", "configs/quickstart.yaml", "--train.max_steps", "1", "--run.name", "figures"]
LONGEST = 10


def packages(root: Path) -> dict[str, str]:
    """Package -> its files and lines; then those of all together."""
    lines: dict[str, list[int]] = {}
    for path in sorted((root / "dlrm").rglob("*.py")):
        package = path.relative_to(root).parent
        name = f"`{package.parts[0]}/{package.parts[1]}/`" if len(package.parts) > 1 else "`dlrm/*.py`"
        lines.setdefault(name, []).append(len(path.read_text(encoding="utf-8").splitlines()))
    every = [count for counts in lines.values() for count in counts]
    return {name: _files(counts) for name, counts in sorted(lines.items())} | {"`dlrm/` in all": _files(every)}


def _files(lines: list[int]) -> str:
    return f"{len(lines):,} files, {sum(lines):,} lines"


def functions(root: Path) -> dict[str, str]:
    """How many functions there are, the median of their lines, and the longest."""
    found: list[tuple[int, str]] = []
    for path in sorted((root / "dlrm").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                assert node.end_lineno is not None
                length = node.end_lineno - node.lineno + 1
                found.append((length, f"{path.relative_to(root / 'dlrm')}: {node.name}"))
    median = statistics.median(length for length, _ in found)
    longest = sorted(found, key=lambda one: (-one[0], one[1]))[:LONGEST]
    return {"functions": f"{len(found):,}, median {median:g} lines"} | {
        f"longest, {place}": f"{length} lines, {name}" for place, (length, name) in enumerate(longest, 1)
    }


def path_to_first_step(root: Path) -> dict[str, str]:
    """What a process of its own, which :func:`trace` follows, had imported and entered."""
    with tempfile.TemporaryDirectory() as folder:
        result = Path(folder, "result.json")
        words = [sys.executable, __file__, "--trace", str(result), *RUN, "--run.dir", folder]
        environment = {**os.environ, "PYTHONPATH": str(root)}
        run = subprocess.run(words, cwd=root, env=environment, capture_output=True, text=True, check=False)
        if not result.exists():
            sys.exit(f"{root}: no step was trained\n{run.stdout}{run.stderr}")
        files, entered = json.loads(result.read_text())
    return {"files imported before the first step": f"{files:,}", "functions entered before it": f"{entered:,}"}


def trace(result: Path, words: list[str]) -> None:
    """Run ``dlrm_main.py`` of the working directory up to its first backward pass, note the path to it, and leave."""
    package = f"{Path.cwd().resolve()}/dlrm/"
    seen: dict[int, CodeType] = {}  # by id, because a code object's own hash takes longer than the rest of this

    def note(frame: FrameType, event: str, argument: Any) -> None:
        code = frame.f_code
        if event != "call" or id(code) in seen:
            return
        seen[id(code)] = code
        if code.co_name == "backward" and code.co_filename.endswith("torch/_tensor.py"):
            files = {getattr(module, "__file__", None) or "" for module in list(sys.modules.values())}
            entered = [one for one in list(seen.values()) if one.co_filename.startswith(package) and _is_function(one)]
            result.write_text(json.dumps([sum(file.startswith(package) for file in files), len(entered)]))
            os._exit(0)

    sys.argv = ["dlrm_main.py", *words]
    threading.setprofile(note)
    sys.setprofile(note)
    runpy.run_path("dlrm_main.py", run_name="__main__")


def _is_function(code: CodeType) -> bool:
    """Whether it is a function that has a name, and no module, body of a class, comprehension or lambda."""
    return bool(code.co_flags & inspect.CO_OPTIMIZED) and not code.co_name.startswith("<")


@contextmanager
def checkout(name: str) -> Iterator[Path]:
    """The folder of that name, or for the time being a work tree of that commit."""
    if Path(name).is_dir():
        yield Path(name).resolve()
        return
    with tempfile.TemporaryDirectory() as folder:
        tree = Path(folder, "tree").resolve()
        git = ["git", "-C", str(ROOT), "worktree"]
        subprocess.run([*git, "add", "--quiet", "--detach", str(tree), name], check=True)
        try:
            yield tree
        finally:
            subprocess.run([*git, "remove", "--force", str(tree)], check=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("before", help="a commit, or a folder that holds a checkout")
    parser.add_argument("after", help="another, e.g. HEAD")
    options = parser.parse_args()
    columns = []
    for name in (options.before, options.after):
        with checkout(name) as root:
            columns.append((packages(root), path_to_first_step(root) | functions(root)))
    before, after = columns
    print(f"| | {options.before} | {options.after} |\n|---|---|---|")
    names = [*sorted(before[0].keys() | after[0].keys(), key=lambda name: (" in all" in name, name)), *after[1]]
    old, new = before[0] | before[1], after[0] | after[1]
    for name in names:
        print(f"| {name} | {old.get(name, '-')} | {new.get(name, '-')} |")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--trace"]:
        trace(Path(sys.argv[2]), sys.argv[3:])
    else:
        main()
