"""Compiled loops run wherever the code can be read. A fresh import of a module stands for a process of its own."""

from __future__ import annotations

import errno
import importlib.util
import shutil
import tempfile
from pathlib import Path

import numpy as np
import pytest
from numba.core import config

from dlrm import compiled

LOOP = """
from dlrm.compiled import compiled, inlined

@inlined
def double(x):
    return 2 * x

@compiled
def total(values):
    sum_of = 0
    for value in values:
        sum_of += double(value)
    return sum_of
"""


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "loop.py").write_text(LOOP)
    monkeypatch.setattr(config, "CACHE_DIR", "")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    return tmp_path / "code"


def run_loop(package: Path) -> tuple[int, int]:
    """The loop's result and how often its machine code came from the cache."""
    spec = importlib.util.spec_from_file_location("loop", package / "loop.py")
    assert spec is not None
    assert spec.loader is not None
    loop = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(loop)
    return loop.total(np.arange(5)), sum(loop.total.stats.cache_hits.values())


def cached(package: Path, pattern: str) -> Path:
    (file,) = (package / "__pycache__").glob(f"loop.total*{pattern}")
    return file


def test_a_loop_is_compiled_once_and_found_by_the_next_process(package: Path) -> None:
    assert [run_loop(package), run_loop(package)] == [(20, 0), (20, 1)]


def test_a_loop_runs_where_nothing_can_be_written(package: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Files in the way of folders refuse everyone, root too.
    (package / "__pycache__").write_text("")
    (package.parent / "home").write_text("")
    monkeypatch.setattr(config, "CACHE_DIR", str(package / "__pycache__"))
    assert [run_loop(package), run_loop(package)] == [(20, 0), (20, 0)]


def test_a_cache_that_can_only_be_read_is_read(package: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run_loop(package)

    def refuse(*args: object, **options: object) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(tempfile, "TemporaryFile", refuse)  # by which numba tries whether a place can be written
    assert run_loop(package) == (20, 1)
    assert compiled.cache_place() == (str(Path(compiled.__file__).parent / "__pycache__"), False)


@pytest.mark.parametrize("name", [".nbi", ".1.nbc"])
@pytest.mark.parametrize("torn", ["empty", "cut", "zeros"])
def test_a_torn_file_of_the_cache_is_written_anew(package: Path, name: str, torn: str) -> None:
    run_loop(package)
    file = cached(package, name)
    whole = file.read_bytes()
    file.write_bytes({"empty": b"", "cut": whole[: len(whole) // 2], "zeros": bytes(len(whole))}[torn])
    assert [run_loop(package), run_loop(package)] == [(20, 0), (20, 1)]


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO, errno.EACCES])
def test_machine_code_that_cannot_be_kept_is_used_all_the_same(
    package: Path, number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    from numba.core.caching import IndexDataCacheFile

    def refuse(*args: object) -> None:
        raise OSError(number, "refused")

    monkeypatch.setattr(IndexDataCacheFile, "_open_for_write", refuse)
    assert run_loop(package) == (20, 0)


def test_a_file_of_the_cache_that_cannot_be_read_or_replaced_is_done_without(package: Path) -> None:
    run_loop(package)
    index = cached(package, ".nbi")
    index.unlink()
    (index / "in_the_way").mkdir(parents=True)
    assert run_loop(package) == (20, 0)
    shutil.rmtree(index)
    assert [run_loop(package), run_loop(package)] == [(20, 0), (20, 1)]
