import os
import shutil

import numpy as np
import pytest
from torchrec.datasets.criteo import BinaryCriteoUtils

from dlrm.data.packed.folder import open_packed
from dlrm.errors import ConfigError
from dlrm.schema import Schema, SparseFeature
from tests.unit.data.packed.packed_files import HOTNESS, NUM_DENSE, ROWS, some_part, write_days, write_npz, write_part


def test_what_macos_and_spark_leave_beside_files_is_no_part(tmp_path):
    write_days(tmp_path, (5,), manifest=False)
    for name in ("._day_0_dense.npy", "._day_0_sparse.npy", "_day_1_labels.npy"):
        (tmp_path / name).write_bytes(b"no array")
    assert [part.name for part in open_packed(str(tmp_path), rows=ROWS).parts] == ["day_0"]


@pytest.mark.parametrize("multi_hot", [False, True], ids=["one-hot", "multi-hot"])
@pytest.mark.parametrize("manifest", [False, True], ids=["bare", "manifest"])
def test_parts_are_mapped_as_they_were_written(tmp_path, manifest, multi_hot):
    sizes = (50, 0, 30)
    written = write_days(tmp_path, sizes, multi_hot=True, manifest=manifest)
    found = open_packed(str(tmp_path), rows=ROWS, multi_hot=multi_hot)
    assert found.path == str(tmp_path)
    assert (found.manifest is not None) == manifest
    assert found.schema == Schema.numbered(NUM_DENSE, ROWS, HOTNESS if multi_hot else None)
    assert [part.name for part in found.parts] == ["day_0", "day_1", "day_2"]
    assert [part.rows for part in found.parts] == list(sizes)
    for part, right in zip(found.parts, written, strict=True):
        np.testing.assert_array_equal(part.dense_MN, right.dense_MN)
        np.testing.assert_array_equal(part.sparse_MF, right.sparse_MF)
        np.testing.assert_array_equal(part.labels_MT[:, 0], right.labels_M)
        assert (part.multi_hot is not None) == multi_hot
        for bag, right_bag in zip(part.multi_hot or right.multi_hot, right.multi_hot, strict=True):
            np.testing.assert_array_equal(bag, right_bag)
        for array in (part.dense_MN, part.sparse_MF, part.labels_MT, *(part.multi_hot or ())):
            assert not array.flags.writeable
        assert part.paths["dense"] == str(tmp_path / f"{part.name}_dense.npy")


def test_parts_are_in_natural_order(tmp_path):
    for day in range(12):
        write_part(tmp_path, f"day_{day}", some_part(2, day))
    assert [part.name for part in open_packed(str(tmp_path), rows=ROWS).parts] == [f"day_{day}" for day in range(12)]


def test_numbering_may_start_anywhere_and_names_need_no_number(tmp_path):
    for name in ("day_22", "day_23", "train", "test"):
        write_part(tmp_path, name, some_part(2))
    found = open_packed(str(tmp_path), rows=ROWS)
    assert [part.name for part in found.parts] == ["day_22", "day_23", "test", "train"]


def test_labels_may_have_one_dimension(tmp_path):
    part = some_part(5)
    write_part(tmp_path, "a", part)
    np.save(tmp_path / "a_labels.npy", part.labels_M)
    np.testing.assert_array_equal(open_packed(str(tmp_path), rows=ROWS).parts[0].labels_MT[:, 0], part.labels_M)


def test_other_files_are_not_looked_at(tmp_path):
    write_days(tmp_path, multi_hot=True)
    (tmp_path / "day_0_sparse_multi_hot.npz").write_bytes(b"")
    (tmp_path / "full.npy").write_bytes(b"")
    (tmp_path / "notes.txt").write_text("")
    assert len(open_packed(str(tmp_path), rows=ROWS).parts) == 3


def test_mlperfs_multi_hot_folders_have_no_one_hot_files(tmp_path):
    written = write_days(tmp_path, multi_hot=True)
    for day in range(3):
        os.remove(tmp_path / f"day_{day}_sparse.npy")
    found = open_packed(str(tmp_path), rows=ROWS, multi_hot=True)
    assert found.parts[1].sparse_MF.shape == (40, 0)
    np.testing.assert_array_equal(found.parts[1].multi_hot[2], written[1].multi_hot[2])


def test_multi_hot_files_may_come_to_a_data_set_whose_manifest_does_not_list_them(tmp_path):
    written = write_days(tmp_path, manifest=True)
    for day, part in enumerate(written):
        write_npz(tmp_path / f"day_{day}_sparse_multi_hot.npz", part.multi_hot)
    found = open_packed(str(tmp_path), multi_hot=True)
    assert [feature.hotness for feature in found.schema.sparse] == list(HOTNESS)


def test_a_link_within_the_folder_is_followed(tmp_path):
    write_days(tmp_path)
    (tmp_path / "store").mkdir()
    shutil.move(tmp_path / "day_0_dense.npy", tmp_path / "store" / "x")
    os.symlink("store/x", tmp_path / "day_0_dense.npy")
    assert open_packed(str(tmp_path), rows=ROWS).parts[0].rows == 50


@pytest.mark.parametrize(
    ("manifest", "rows", "expected"),
    [
        (False, [1000], [1000, 1000, 1000]),
        (False, ROWS, ROWS),
        (True, None, ROWS),
        (True, [5000], [5000, 5000, 5000]),
        (True, [100, 8, 1000], [100, 8, 1000]),
    ],
)
def test_table_sizes_are_the_configured_ones_or_the_manifests(tmp_path, manifest, rows, expected):
    write_days(tmp_path, manifest=manifest)
    found = open_packed(str(tmp_path), rows=rows)
    assert found.schema.sparse == tuple(SparseFeature(f"cat_{i}", n) for i, n in enumerate(expected))


@pytest.mark.parametrize(
    ("manifest", "rows", "expected"),
    [
        (False, None, "data.rows: is needed for {}/day_0_dense.npy, as there is no dataset.json"),
        (False, [1, 2], "data.rows: has 2 entries, the data have 3 sparse features"),
        (True, [1, 2, 3, 4], "data.rows: has 4 entries, the data have 3 sparse features"),
        (True, [100, 6, 1000], "data.rows: 6 is too small for cat_1: dataset.json says 7"),
        (True, [999], "data.rows: 999 is too small for cat_2: dataset.json says 1,000"),
    ],
)
def test_table_sizes_that_do_not_fit_the_data_are_refused(tmp_path, manifest, rows, expected):
    write_days(tmp_path, manifest=manifest)
    with pytest.raises(ConfigError) as caught:
        open_packed(str(tmp_path), rows=rows)
    assert str(caught.value).startswith(expected.format(tmp_path))
    assert "\n" not in str(caught.value)


def test_tables_may_be_smaller_than_the_manifests_where_ids_beyond_them_are_dealt_with(tmp_path):
    write_days(tmp_path, manifest=True)
    found = open_packed(str(tmp_path), rows=[6], may_be_smaller=True)
    assert [feature.rows for feature in found.schema.sparse] == [6, 6, 6]


@pytest.mark.parametrize("renamed", [False, True])
def test_folders_of_torchrecs_scripts_are_read_as_they_are(tmp_path, renamed):
    """The steps of torchrec's preprocessing on made-up rows; users rename the output of its second step, or do not."""
    raw, out = tmp_path / "raw", tmp_path / "out"
    raw.mkdir()
    out.mkdir()
    draw = np.random.default_rng(0)
    for day in range(3):
        rows = draw.integers(0, 9, (20 + day, 40))
        lines = ("\t".join([str(row[0] % 2), *map(str, row[1:14]), *(f"{n:08x}" for n in row[14:])]) for row in rows)
        (raw / f"day_{day}").write_text("\n".join(lines) + "\n")
        names = [str(out / f"day_{day}_{kind}.npy") for kind in ("dense", "sparse", "labels")]
        BinaryCriteoUtils.tsv_to_npys(str(raw / f"day_{day}"), *names)
    sparse = [str(out / f"day_{day}_sparse.npy") for day in range(3)]
    BinaryCriteoUtils.sparse_to_contiguous(sparse, str(out), frequency_threshold=0)
    for path in sparse:
        contiguous = path.replace("_sparse.npy", "_sparse_contig_freq.npy")
        os.replace(contiguous, path) if renamed else os.remove(path)
    data = open_packed(str(out), rows=[64])
    assert [part.rows for part in data.parts] == [20, 21, 22]
    for part in data.parts:
        for kind, array in (("dense", part.dense_MN), ("sparse", part.sparse_MF), ("labels", part.labels_MT)):
            np.testing.assert_array_equal(array, np.load(part.paths[kind]))
    if renamed:
        shuffled = tmp_path / "shuffled"
        shuffled.mkdir()
        BinaryCriteoUtils.shuffle(str(out), str(out), str(shuffled), {0: 20, 1: 21}, days=3)
        assert [part.rows for part in open_packed(str(shuffled), rows=[64]).parts] == [20, 21, 22]
