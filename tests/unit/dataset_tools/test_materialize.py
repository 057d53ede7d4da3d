import hashlib
import io
import multiprocessing
import os
import resource
import signal
import time
import tracemalloc
import zipfile

import numpy as np
import pytest
import torch

from dlrm.config.data.packed import MlperfMultiHot
from dlrm.config.prepare import MaterializeConfig
from dlrm.data.in_memory import InMemorySource
from dlrm.data.multi_hot import multi_hot_dataset
from dlrm.data.packed.arrays import MappedFile
from dlrm.data.packed.folder import open_packed
from dlrm.data.packed.manifest import FileRecord, Manifest, PartRecord, SparseRecord, dump_manifest, parse_manifest
from dlrm.data.packed.npz import list_members, map_members, verify_checksums
from dlrm.data.source import Dataset
from dlrm.dataset_tools import materialize
from dlrm.dataset_tools.materialize import run_materialize
from dlrm.errors import ConfigError, DataError, SetupError
from dlrm.schema import Schema

ROWS, HOTNESS = (50, 3, 1000, 7), (3, 1, 100, 2)
PARTS = {"day_0": 300, "day_1": 41, "day_2": 5}


def write_folder(folder, *, rows=ROWS, parts=PARTS, dtype=np.int32, ids=None):
    folder.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(0)
    for name, count in parts.items():
        sparse = np.stack([random.integers(0, n, count) for n in rows], axis=1) if ids is None else ids
        np.save(folder / f"{name}_sparse.npy", sparse.astype(dtype))
        np.save(folder / f"{name}_dense.npy", random.random((count, 2), dtype=np.float32))
        np.save(folder / f"{name}_labels.npy", random.integers(0, 2, (count, 1), dtype=np.int32))
    return folder


def write_manifest_for(folder, *, rows=ROWS, parts=PARTS):
    def record(path):
        return FileRecord(
            name=path.name, bytes=path.stat().st_size, sha256=hashlib.sha256(path.read_bytes()).hexdigest()
        )

    manifest = Manifest(
        dense=("int_0", "int_1"),
        sparse=tuple(SparseRecord(name=f"cat_{i}", rows=n) for i, n in enumerate(rows)),
        parts=tuple(
            PartRecord(
                name=name,
                rows=count,
                files={kind: record(folder / f"{name}_{kind}.npy") for kind in ("dense", "sparse", "labels")},
            )
            for name, count in parts.items()
        ),
        split={},
        preprocessing={"kept": True},
    )
    (folder / "dataset.json").write_text(dump_manifest(manifest))
    return folder


def config_of(folder, **options):
    return MaterializeConfig(**{"path": str(folder), "rows": ROWS, "hotness": HOTNESS, **options})


def recipe_file(sparse, rows, hotness, distribution, seed=0):
    """What the recipe's script writes, by its own arithmetic: int64 draws, ids modulo the rows, np.savez."""
    stream = np.random.RandomState(seed)
    arrays = {}
    for i, (n, k) in enumerate(zip(rows, hotness, strict=True)):
        if distribution == "uniform":
            drawn = stream.randint(0, n, size=(n, k - 1))
        else:
            with np.errstate(invalid="ignore"):
                drawn = stream.pareto(a=0.25, size=(n, k - 1)).astype(np.int32) % n
        table = np.concatenate((np.arange(n)[:, None], drawn), axis=-1).astype(np.int32)
        arrays[str(i)] = table[sparse[:, i] % n]
    file = io.BytesIO()
    np.savez(file, **arrays)
    return file.getvalue()


@pytest.mark.parametrize("dtype", [np.int32, np.int64])
@pytest.mark.parametrize("distribution", ["uniform", "pareto"])
def test_files_are_byte_for_byte_those_of_the_recipes_script(tmp_path, distribution, dtype, monkeypatch):
    monkeypatch.setattr(materialize, "_CHUNK_BYTES", 4000)  # many chunks, the last one short
    folder = write_folder(tmp_path, dtype=dtype)
    run_materialize(config_of(folder, distribution=distribution))
    for name in PARTS:
        expected = recipe_file(np.load(folder / f"{name}_sparse.npy"), ROWS, HOTNESS, distribution)
        assert (folder / f"{name}_sparse_multi_hot.npz").read_bytes() == expected


def test_ids_beyond_the_table_fold_as_in_the_recipes_script_where_asked(tmp_path):
    ids = np.random.default_rng(0).integers(0, 5000, (300, 4))
    folder = write_folder(tmp_path, parts={"day_0": 300}, ids=ids)
    run_materialize(config_of(folder, bad_ids="hash"))
    assert (folder / "day_0_sparse_multi_hot.npz").read_bytes() == recipe_file(ids, ROWS, HOTNESS, "uniform")


def test_arrays_are_whole_for_numpy_for_zip_and_for_the_reader(tmp_path):
    folder = write_folder(tmp_path)
    run_materialize(config_of(folder, hotness=2))
    path = folder / "day_0_sparse_multi_hot.npz"
    with zipfile.ZipFile(path) as archive:
        assert archive.testzip() is None
        assert all(member.compress_type == zipfile.ZIP_STORED for member in archive.infolist())
    with np.load(path, allow_pickle=False) as loaded:
        arrays = [loaded[str(i)] for i in range(len(ROWS))]
    assert [(array.shape, array.dtype) for array in arrays] == [((300, 2), np.int32)] * 4
    verify_checksums(MappedFile(str(path)))
    for array, mapped in zip(arrays, map_members(MappedFile(str(path)), ("<i4",)), strict=True):
        np.testing.assert_array_equal(mapped, array)


def test_ids_on_the_fly_are_those_of_the_files(tmp_path):
    folder = write_folder(tmp_path)
    run_materialize(config_of(folder, distribution="pareto", seed=5))
    schema = Schema.numbered(2, ROWS)
    ids_MF = torch.from_numpy(np.load(folder / "day_0_sparse.npy"))
    source = InMemorySource("day_0", schema, torch.zeros(300, 2), ids_MF, torch.zeros(300, 1))
    one_hot = Dataset(source, source, source)
    on_the_fly = multi_hot_dataset(one_hot, MlperfMultiHot(hotness=HOTNESS, distribution="pareto", seed=5)).train
    with np.load(folder / "day_0_sparse_multi_hot.npz", allow_pickle=False) as loaded:
        stored_MS = np.concatenate([loaded[str(i)] for i in range(len(ROWS))], axis=1)
    index_B = torch.randperm(300, generator=torch.Generator().manual_seed(0))
    np.testing.assert_array_equal(on_the_fly.read(index_B).ids_BS.numpy(), stored_MS[index_B])


def test_the_manifest_lists_files_and_hotness_and_keeps_the_rest(tmp_path):
    folder = write_manifest_for(write_folder(tmp_path))
    before = parse_manifest((folder / "dataset.json").read_text(), "before")
    run_materialize(config_of(folder, rows=None))
    after = parse_manifest((folder / "dataset.json").read_text(), "after")
    assert tuple(feature.hotness for feature in after.sparse) == HOTNESS
    assert (after.preprocessing, after.dense, after.split) == (before.preprocessing, before.dense, before.split)
    for part, old in zip(after.parts, before.parts, strict=True):
        path = folder / f"{part.name}_sparse_multi_hot.npz"
        assert {kind: file for kind, file in part.files.items() if kind != "multi_hot"} == old.files
        assert part.files["multi_hot"] == FileRecord(
            name=path.name, bytes=path.stat().st_size, sha256=hashlib.sha256(path.read_bytes()).hexdigest()
        )
    opened = open_packed(str(folder), multi_hot=True)
    assert [feature.hotness for feature in opened.schema.sparse] == list(HOTNESS)


def test_another_output_folder_gets_the_files_and_the_manifest_stays(tmp_path):
    folder = write_manifest_for(write_folder(tmp_path / "data"))
    before = (folder / "dataset.json").read_bytes()
    run_materialize(config_of(folder, rows=None, output=str(tmp_path / "made" / "there")))
    assert (folder / "dataset.json").read_bytes() == before
    written = sorted(path.name for path in (tmp_path / "made" / "there").glob("*.npz"))
    assert written == [f"{name}_sparse_multi_hot.npz" for name in PARTS]


def test_parts_that_are_there_are_kept_unless_overwritten(tmp_path, capsys):
    folder = write_manifest_for(write_folder(tmp_path))
    config = config_of(folder, rows=None)
    run_materialize(config)
    files = {name: folder / f"{name}_sparse_multi_hot.npz" for name in PARTS}
    manifest, contents = (folder / "dataset.json").read_bytes(), {n: f.read_bytes() for n, f in files.items()}
    first = {name: file.stat().st_ino for name, file in files.items()}
    files["day_1"].unlink()
    run_materialize(config)
    assert {name for name, file in files.items() if file.stat().st_ino == first[name]} >= {"day_0", "day_2"}
    assert "day_1 (2 of 3)" in capsys.readouterr().out
    assert {n: f.read_bytes() for n, f in files.items()} == contents
    assert (folder / "dataset.json").read_bytes() == manifest
    run_materialize(config_of(folder, rows=None, hotness=4, overwrite=True))
    assert np.load(files["day_0"])["3"].shape == (300, 4)
    assert {feature.hotness for feature in parse_manifest((folder / "dataset.json").read_text(), "").sparse} == {4}


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"seed": 1}, r"day_0_sparse_multi_hot.npz:0.npy, row 1, column cat_0: holds other ids.*set overwrite"),
        ({"distribution": "pareto"}, r"0.npy, row 1, column cat_0: holds other ids"),
        ({"hotness": (3, 1, 99, 2)}, r"2.npy, column cat_2: has shape \(300, 100\) instead of \(300, 99\)"),
    ],
)
def test_a_file_with_other_ids_than_asked_for_is_refused(tmp_path, options, problem):
    folder = write_folder(tmp_path)
    run_materialize(config_of(folder))
    with pytest.raises(DataError, match=problem):
        run_materialize(config_of(folder, **options))


def test_a_file_of_which_a_byte_is_wrong_is_not_kept_wherever_it_is(tmp_path):
    folder = write_folder(tmp_path, parts={"day_0": 3000})
    run_materialize(config_of(folder))
    path = folder / "day_0_sparse_multi_hot.npz"
    members = {member.name: member for member in list_members(MappedFile(str(path)))}
    content = bytearray(path.read_bytes())
    content[members["2.npy"].stop - 4 * 2 * HOTNESS[2] + 1] ^= 1  # in the last row but one, which is not compared
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"day_0_sparse_multi_hot.npz:2.npy: has CRC-32 .*; set overwrite to true"):
        run_materialize(config_of(folder))
    assert path.read_bytes() == content
    run_materialize(config_of(folder, overwrite=True))
    verify_checksums(MappedFile(str(path)))


def test_a_damaged_file_is_refused_before_anything_is_written(tmp_path):
    folder = write_folder(tmp_path)
    (folder / "day_2_sparse_multi_hot.npz").write_bytes(b"PK\3\4 torn")
    with pytest.raises(DataError, match=r"day_2_sparse_multi_hot.npz: .*; set overwrite to true"):
        run_materialize(config_of(folder))
    assert [path.name for path in folder.glob("*.npz*")] == ["day_2_sparse_multi_hot.npz"]


@pytest.mark.parametrize(
    ("part", "row", "column", "bad"), [("day_0", 0, 0, 50), ("day_1", 40, 2, -1), ("day_2", 4, 3, 7)]
)
def test_an_id_outside_of_its_table_is_named_before_anything_is_written(tmp_path, part, row, column, bad):
    folder = write_folder(tmp_path)
    ids = np.load(folder / f"{part}_sparse.npy")
    ids[row, column] = bad
    np.save(folder / f"{part}_sparse.npy", ids)
    expected = rf"{part}_sparse.npy, row {row + 1}, column cat_{column}: id {bad} is outside of its table \(0 \.\. "
    with pytest.raises(DataError, match=expected):
        run_materialize(config_of(folder))
    assert not list(folder.glob("*.npz*"))


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"hotness": (3, 2)}, ConfigError, r"hotness: has 2 entries, the data has 4 sparse features"),
        ({"rows": (3, 2)}, ConfigError, r"rows: has 2 entries"),
        ({"rows": None}, ConfigError, r"rows: .*no dataset.json"),
        ({"path": "s3://bucket/data"}, ConfigError, r"path: s3://bucket/data is remote: copy"),
        ({"path": "/nowhere/at/all"}, DataError, r"/nowhere/at/all: there is no such folder"),
        ({"output": "/proc/nowhere"}, DataError, r"/proc/nowhere: cannot be written"),
    ],
)
def test_options_that_do_not_fit_are_named(tmp_path, options, error, message):
    folder = write_folder(tmp_path)
    with pytest.raises(error, match=message):
        run_materialize(config_of(folder, **{"output": str(tmp_path / "out"), **options}))


def test_rows_may_differ_from_the_manifests_where_ids_are_folded(tmp_path):
    folder = write_manifest_for(write_folder(tmp_path))
    with pytest.raises(ConfigError, match="rows: has 2 entries"):
        run_materialize(config_of(folder, rows=(40, 3)))
    smaller = (40, 3, 900, 7)
    run_materialize(config_of(folder, rows=smaller, bad_ids="hash"))
    expected = recipe_file(np.load(folder / "day_0_sparse.npy"), smaller, HOTNESS, "uniform")
    assert (folder / "day_0_sparse_multi_hot.npz").read_bytes() == expected


def test_too_small_a_disk_is_said_before_anything_is_written(tmp_path, monkeypatch):
    folder = write_folder(tmp_path)
    usage = materialize.shutil.disk_usage(tmp_path)
    need = 4 * sum(PARTS.values()) * sum(HOTNESS)
    monkeypatch.setattr(materialize.shutil, "disk_usage", lambda _: usage._replace(free=need - 1))
    with pytest.raises(DataError, match=r"GiB free, the multi-hot files need .*make room"):
        run_materialize(config_of(folder))
    monkeypatch.setattr(materialize.shutil, "disk_usage", lambda _: usage._replace(free=need))
    run_materialize(config_of(folder))


def run_with_limited_files(config, limit, said):
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))  # as a full disk: writing beyond it is an OSError
    try:
        run_materialize(config)
    except Exception as error:
        said.put((type(error).__name__, str(error)))


def test_a_full_disk_is_one_line_and_finished_parts_are_kept(tmp_path):
    folder = write_folder(tmp_path, parts={"day_0": 50, "day_1": 3000, "day_2": 50})
    context = multiprocessing.get_context("fork")
    said = context.Queue()
    process = context.Process(target=run_with_limited_files, args=(config_of(folder), 100_000, said))
    process.start()
    kind, text = said.get(timeout=60)
    process.join()
    assert kind == "DataError"
    assert "cannot be written (File too large); make room" in text
    assert [path.name for path in folder.glob("*.npz*")] == ["day_0_sparse_multi_hot.npz"]
    run_materialize(config_of(folder))
    assert len(list(folder.glob("*.npz"))) == 3


def test_a_killed_run_goes_on_with_the_same_bytes(tmp_path):
    whole, killed = write_folder(tmp_path / "whole"), write_folder(tmp_path / "killed")
    for folder in (whole, killed):
        write_manifest_for(folder)
    run_materialize(config_of(whole, rows=None))
    pid = os.fork()
    if pid == 0:  # stops for ever in the second part, with bytes of it on the disk
        original = materialize._PartFile._write_member

        def stop(self, archive, feature, *args):
            if self.part.name == "day_1" and feature == 2:
                archive.fp.flush()
                time.sleep(600)
            original(self, archive, feature, *args)

        materialize._PartFile._write_member = stop
        run_materialize(config_of(killed, rows=None))
        os._exit(0)
    beside = killed / "day_1_sparse_multi_hot.npz.unfinished"
    for _ in range(600):
        if beside.exists() and beside.stat().st_size:
            break
        time.sleep(0.05)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    assert sorted(path.name for path in killed.glob("*.npz*")) == ["day_0_sparse_multi_hot.npz", beside.name]
    run_materialize(config_of(killed, rows=None))
    assert {p.name: p.read_bytes() for p in killed.iterdir()} == {p.name: p.read_bytes() for p in whole.iterdir()}


def test_a_listed_file_that_is_gone_is_written_again(tmp_path):
    folder = write_manifest_for(write_folder(tmp_path))
    run_materialize(config_of(folder, rows=None))
    manifest = (folder / "dataset.json").read_bytes()
    for name in PARTS:
        (folder / f"{name}_sparse_multi_hot.npz").unlink()
    run_materialize(config_of(folder, rows=None))
    assert (folder / "dataset.json").read_bytes() == manifest


def test_a_mistake_changes_nothing_even_where_files_are_to_be_overwritten(tmp_path):
    folder = write_manifest_for(write_folder(tmp_path))
    run_materialize(config_of(folder, rows=None))
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    with pytest.raises(ConfigError):
        run_materialize(config_of(folder, rows=None, hotness=(1, 2), overwrite=True))
    with pytest.raises(DataError, match="is outside of its table"):
        run_materialize(config_of(folder, rows=2, overwrite=True))
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_a_misspelt_path_makes_no_folder(tmp_path):
    with pytest.raises(DataError, match="there is no such folder"):
        run_materialize(config_of(tmp_path / "misspelt"))
    assert not list(tmp_path.iterdir())


def test_two_processes_do_not_write_into_one_folder(tmp_path):
    folder = write_folder(tmp_path)
    with (
        materialize.alone(folder / ".materialize.lock"),
        pytest.raises(SetupError, match="another process materializes"),
    ):
        run_materialize(config_of(folder))


def test_memory_does_not_grow_with_the_part(tmp_path, monkeypatch):
    monkeypatch.setattr(materialize, "_CHUNK_BYTES", 1 << 16)
    monkeypatch.setattr(materialize, "_CHECKED_ROWS", 1 << 10)
    run_materialize(config_of(write_folder(tmp_path / "first", parts={"day_0": 100})))  # compiles and imports
    peaks = []
    for count in (5_000, 40_000):  # 2 and 17 MB of ids
        folder = write_folder(tmp_path / str(count), parts={"day_0": count})
        tracemalloc.start()
        run_materialize(config_of(folder))
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.2 * peaks[0] < 5e6


def test_an_empty_part_has_an_empty_file(tmp_path):
    folder = write_folder(tmp_path, parts={"day_0": 3, "day_1": 0})
    run_materialize(config_of(folder))
    with np.load(folder / "day_1_sparse_multi_hot.npz") as loaded:
        assert [loaded[str(i)].shape for i in range(4)] == [(0, k) for k in HOTNESS]
