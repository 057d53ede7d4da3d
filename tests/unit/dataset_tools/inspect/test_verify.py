import zlib
from pathlib import Path

import numpy as np
import pytest

from dlrm.data.packed.manifest import MANIFEST_NAME, Manifest
from dlrm.data.packed.naming import read_manifest
from dlrm.dataset_tools.inspect import verify as module
from dlrm.dataset_tools.inspect.verify import Verified, recorded_bytes, verify
from tests.unit.data.packed.packed_files import file_record
from tests.unit.dataset_tools.inspect.packed_folders import SEPARATE, small, write_manifest, write_part

SIZES = (5, 50, 1000)


@pytest.fixture(autouse=True)
def _several_blocks_a_file(monkeypatch):
    monkeypatch.setattr(module, "_BLOCK_BYTES", 1000)


def verified(folder: Path, manifest: Manifest | None = None) -> Verified:
    return verify(str(folder), manifest or read_manifest(str(folder)), lambda nbytes: None)


def faults(folder: Path) -> list[str]:
    return [str(fault).removeprefix(f"{folder}/") for fault in verified(folder).faults]


def change(folder: Path, name: str, row: int, column: int, value) -> None:
    array = np.load(folder / name)
    array[row, column] = value
    np.save(folder / name, array)


def test_a_whole_data_set_has_no_fault_and_every_byte_of_it_is_read(tmp_path):
    small(tmp_path)
    read: list[int] = []
    manifest = read_manifest(str(tmp_path))
    found = verify(str(tmp_path), manifest, read.append)
    size = sum(path.stat().st_size for path in tmp_path.glob("*.npy"))
    assert found == Verified(faults=(), files=9, nbytes=size)
    assert sum(read) == size == recorded_bytes(manifest)


def test_values_that_must_not_be_there_are_named_with_row_and_column(tmp_path):
    small(tmp_path)
    change(tmp_path, "day_0_dense.npy", 311, 1, np.nan)
    change(tmp_path, "day_0_sparse.npy", 399, 2, 1000)
    change(tmp_path, "day_1_sparse.npy", 0, 0, -1)
    change(tmp_path, "day_2_labels.npy", 17, 0, 2)
    write_manifest(tmp_path, SIZES)  # the checksums are right: it was written so
    hint = "prepare it again, or copy it anew"
    assert faults(tmp_path) == [
        f"day_0_dense.npy, row 312, column int_1: nan is not finite; {hint}",
        f"day_0_sparse.npy, row 400, column cat_2: id 1000 is outside of its table (0 .. 999); {hint}",
        f"day_1_sparse.npy, row 1, column cat_0: id -1 is outside of its table (0 .. 4); {hint}",
        f"day_2_labels.npy, row 18, column label: 2 is neither 0 nor 1; {hint}",
    ]


@pytest.mark.parametrize("row", [0, 63, 64, 200, 399])
@pytest.mark.parametrize("column", [0, 1, 2])
@pytest.mark.parametrize("wide", [False, True])
def test_an_id_outside_is_found_wherever_it_is(tmp_path, row, column, wide):
    small(tmp_path, parts=1)
    ids = np.load(tmp_path / "day_0_sparse.npy").astype(np.int64 if wide else np.int32)
    ids[row, column] = 2**40 if wide else 2**31 - 1
    np.save(tmp_path / "day_0_sparse.npy", ids)
    write_manifest(tmp_path, SIZES)
    (fault,) = verified(tmp_path).faults
    assert (fault.row, fault.column) == (row + 1, f"cat_{column}")


def test_a_changed_bit_is_found_by_the_checksum(tmp_path):
    small(tmp_path, parts=2)
    for name in ("day_0_dense.npy", "day_1_sparse.npy"):
        data = bytearray((tmp_path / name).read_bytes())
        data[-1 if name.startswith("day_0") else -12] ^= 1  # leaves a finite number, and an id within its table
        (tmp_path / name).write_bytes(bytes(data))
    found = faults(tmp_path)
    assert [line.split(": ")[0] for line in found] == ["day_0_dense.npy", "day_1_sparse.npy"]
    assert all("has SHA-256" in line and "it is damaged" in line for line in found)


def test_clicks_are_compared_with_what_is_recorded(tmp_path):
    small(tmp_path, parts=1)
    manifest = read_manifest(str(tmp_path))
    assert manifest is not None
    clicks = manifest.parts[0].clicks
    wrong = manifest.model_copy(update={"parts": (manifest.parts[0].model_copy(update={"clicks": clicks + 1}),)})
    (fault,) = verified(tmp_path, wrong).faults
    assert f"has {clicks} labels that are 1, dataset.json says {clicks + 1}" in str(fault)


def test_files_that_are_missing_cut_or_of_another_kind_are_faults_among_others(tmp_path):
    small(tmp_path)
    (tmp_path / "day_0_dense.npy").unlink()
    whole = (tmp_path / "day_1_sparse.npy").read_bytes()
    (tmp_path / "day_1_sparse.npy").write_bytes(whole[:-4])
    np.save(tmp_path / "day_2_labels.npy", np.load(tmp_path / "day_2_labels.npy").astype(np.int64))
    change(tmp_path, "day_2_dense.npy", 5, 0, np.inf)
    found = faults(tmp_path)
    assert len(found) == 4
    assert "day_0_dense.npy: is missing" in found[0]
    assert f"day_1_sparse.npy: has {len(whole) - 4:,} bytes, dataset.json says {len(whole):,}" in found[1]
    assert "day_2_dense.npy, row 6, column int_0: inf is not finite" in found[2]
    assert "day_2_labels.npy: has" in found[3]


def test_a_file_with_other_rows_or_columns_than_recorded_is_a_fault(tmp_path):
    small(tmp_path, parts=2)
    np.save(tmp_path / "day_0_sparse.npy", np.zeros((399, 3), np.int32))
    np.save(tmp_path / "day_1_dense.npy", np.zeros((400, 3), np.float32))
    write_manifest(tmp_path, SIZES)
    manifest = read_manifest(str(tmp_path))
    assert manifest is not None
    found = [str(fault) for fault in verified(tmp_path, manifest).faults]
    assert "day_0_sparse.npy: has 399 rows, the part has 400" in found[0]
    assert "day_1_dense.npy: has 3 columns, 2 are needed" in found[1]


def test_a_link_that_leaves_the_folder_is_a_fault(tmp_path):
    folder = small(tmp_path / "data", parts=1)
    (folder / "day_0_dense.npy").rename(tmp_path / "elsewhere.npy")
    (folder / "day_0_dense.npy").symlink_to(tmp_path / "elsewhere.npy")
    (fault,) = faults(folder)
    assert "day_0_dense.npy: is a link that leaves the folder" in fault


def multi_hot(folder: Path, *, listed: bool = True) -> None:
    """A part with a multi-hot file, which the manifest need not list."""
    rng = np.random.default_rng(0)
    bags = [rng.integers(0, size, (400, hot)) for size, hot in zip(SIZES, (3, 1, 2), strict=True)]
    sparse = np.stack([bag[:, 0] for bag in bags], axis=1)
    dense, labels = rng.random((400, 2)), rng.random(400) < 0.3
    if not listed:
        write_part(folder, "day_0", dense, sparse, labels)
        write_manifest(folder, SIZES)
    write_part(folder, "day_0", dense, sparse, labels, bags)
    if listed:
        write_manifest(folder, SIZES, hotness=(3, 1, 2))


@pytest.mark.parametrize("listed", [True, False])
def test_multi_hot_files_are_read_whether_listed_or_not(tmp_path, listed):
    multi_hot(tmp_path, listed=listed)
    found = verified(tmp_path)
    assert found.faults == ()
    assert found.files == 4
    assert found.nbytes == sum(path.stat().st_size for path in tmp_path.glob("day_0*"))


def test_an_id_of_a_bag_outside_of_its_table_is_named(tmp_path):
    multi_hot(tmp_path)
    with np.load(tmp_path / "day_0_sparse_multi_hot.npz") as stored:
        bags = dict(stored)
    bags["2"][250, 1] = 1000
    np.savez(tmp_path / "day_0_sparse_multi_hot.npz", **bags)
    write_manifest(tmp_path, SIZES, hotness=(3, 1, 2))
    (fault,) = faults(tmp_path)
    assert fault.startswith("day_0_sparse_multi_hot.npz:2.npy, row 251, column cat_2: id 1000 is outside of its table")


def test_without_a_checksum_the_archive_s_own_crc_finds_a_changed_bit(tmp_path):
    multi_hot(tmp_path)
    path = tmp_path / "day_0_sparse_multi_hot.npz"
    data = bytearray(path.read_bytes())
    ids = np.load(path)["1"]
    at = data.index(ids.tobytes())
    data[at] ^= 1  # another id of 0 .. 49
    path.write_bytes(bytes(data))
    (tmp_path / MANIFEST_NAME).unlink()
    (fault,) = faults(tmp_path)
    assert fault.startswith("day_0_sparse_multi_hot.npz:1.npy: has CRC-32")
    stored = zlib.crc32(bytes(data[at : at + ids.nbytes]))
    assert stored != zlib.crc32(ids.tobytes())


def test_without_a_manifest_what_can_be_known_is_checked(tmp_path):
    small(tmp_path)
    (tmp_path / MANIFEST_NAME).unlink()
    assert verified(tmp_path).faults == ()
    change(tmp_path, "day_0_sparse.npy", 7, 1, -3)
    np.save(tmp_path / "day_1_labels.npy", np.zeros((399, 1), np.int32))
    (tmp_path / "day_2_dense.npy").write_bytes(b"")
    found = faults(tmp_path)
    assert "day_0_sparse.npy, row 8, column cat_1: id -3 is negative" in found[0]
    assert "day_1_labels.npy: has 399 rows, the part has 400" in found[1]
    assert "day_2_dense.npy: is empty" in found[2]
    assert len(found) == 3


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([3, 5, 9], None),
        ([3, 9, 5], "row 3, column cat_0: value 5 follows 9, values must ascend"),
        ([3, 3, 5], "row 2, column cat_0: value 3 follows 3, values must ascend"),
        ([3, 5], "column cat_0: has 2 values, the table of dataset.json is for 3"),
        (np.array([3, 5, 2**32 - 1]), None),
    ],
)
def test_vocabularies_ascend_and_fill_their_table(tmp_path, values, expected):
    small(tmp_path, parts=1)
    np.save(tmp_path / "cat_0_vocabulary.npy", np.array(values, np.uint32))
    write_manifest(tmp_path, SIZES, preprocessing=SEPARATE, vocabularies=["cat_0"])
    found = faults(tmp_path)
    assert len(found) == (expected is not None)
    if expected is not None:
        assert expected in found[0]
        assert found[0].startswith("cat_0_vocabulary.npy, ")


def test_a_long_vocabulary_is_checked_across_its_blocks(tmp_path):
    small(tmp_path, parts=1)
    values = np.arange(1000, dtype=np.uint32) * 7
    values[500] = values[499]  # first value of a block of 250
    np.save(tmp_path / "cat_2_vocabulary.npy", values)
    write_manifest(tmp_path, SIZES, vocabularies=["cat_2"])
    (fault,) = faults(tmp_path)
    assert "row 501, column cat_2: value 3493 follows 3493" in fault


TASKS = ("click", "like")


def with_tasks(folder: Path, labels) -> Manifest:
    """The data set with labels of two tasks in its only part."""
    small(folder, parts=1)
    labels_MT = np.tile(np.array(labels, np.int32), (400 // len(labels), 1))
    np.save(folder / "day_0_labels.npy", labels_MT)
    recorded = read_manifest(str(folder))
    assert recorded is not None
    part = recorded.parts[0]
    files = part.files | {"labels": file_record(folder, "day_0_labels.npy")}
    clicks = int((labels_MT[:, 0] == 1).sum())
    return recorded.model_copy(
        update={"tasks": TASKS, "parts": (part.model_copy(update={"files": files, "clicks": clicks}),)}
    )


def test_labels_of_several_tasks_may_be_missing_but_not_all_of_a_row(tmp_path):
    manifest = with_tasks(tmp_path, [[1, -1], [0, 1], [-1, 0], [1, 1]])
    assert verified(tmp_path, manifest).faults == ()
    manifest = with_tasks(tmp_path, [[1, -1], [0, 1], [-1, -1], [1, 1]])
    (fault,) = verified(tmp_path, manifest).faults
    assert (fault.row, fault.column, fault.problem) == (3, "click", "-1 is neither 0 nor 1")
    manifest = with_tasks(tmp_path, [[1, -1], [0, 2], [-1, 0], [1, 1]])
    (fault,) = verified(tmp_path, manifest).faults
    assert (fault.row, fault.column, fault.problem) == (2, "like", "2 is neither 0 nor 1")


def test_labels_of_several_tasks_without_a_manifest_are_numbered(tmp_path):
    with_tasks(tmp_path, [[1, 0], [0, 3]])
    (tmp_path / MANIFEST_NAME).unlink()
    (fault,) = verify(str(tmp_path), None, lambda nbytes: None).faults
    assert (fault.row, fault.column) == (2, "label_1")
