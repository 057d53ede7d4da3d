"""What can be done to a good packed data set, and what is then to be said of it."""

import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from dlrm.data.packed.folder import open_packed
from dlrm.errors import DataError
from tests.unit.data.packed.packed_files import ROWS, write_days

SIZES = (50, 40, 30)


@dataclass(frozen=True)
class Case:
    """What is done to a good folder, the file that the error is to name, and what it is to say of it."""

    name: str
    damage: Callable[[Path], object]
    file: str
    problem: str
    manifest: bool = False
    multi_hot: bool = False


def save(name, array):
    return lambda folder: np.save(folder / name, array)


def put(name, content):
    return lambda folder: (folder / name).write_bytes(content)


def cut(name, size):
    return lambda folder: os.truncate(folder / name, size)


def edit(name, change):
    def act(folder):
        (folder / name).write_bytes(change((folder / name).read_bytes()))

    return act


def edit_json(change):
    def act(folder):
        content = json.loads((folder / "dataset.json").read_text())
        change(content)
        (folder / "dataset.json").write_text(json.dumps(content))

    return act


def leaves(folder):
    outside = folder.parent / "outside.npy"
    os.replace(folder / "day_1_dense.npy", outside)
    os.symlink(outside, folder / "day_1_dense.npy")


def named(cases):
    return [pytest.param(case, id=case.name) for case in cases]


def assert_one_line(folder: Path, case: Case, *, manifest: bool, multi_hot: bool) -> None:
    write_days(folder, SIZES, multi_hot=multi_hot, manifest=manifest)
    case.damage(folder)
    with pytest.raises(DataError) as caught:
        open_packed(str(folder), rows=None if manifest else ROWS, multi_hot=multi_hot)
    text = str(caught.value)
    assert text.isprintable(), "one line"
    assert len(text) < 500
    assert text.startswith(f"{folder / case.file}: ")
    assert case.problem.format(folder) in text
    assert caught.value.hint
