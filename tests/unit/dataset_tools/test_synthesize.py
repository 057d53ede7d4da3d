"""``synthesize``: what it profiles, writes and refuses."""

from __future__ import annotations

import hashlib
import json

import numpy as np
import pytest
import torch

from dlrm.config.data import PackedData, RandomData
from dlrm.config.prepare import SynthesizeConfig
from dlrm.data.packed.dataset import packed_dataset
from dlrm.data.packed.manifest import Manifest, SpanRecord, SparseRecord
from dlrm.data.packed.write import PartWriter, write_manifest
from dlrm.data.synthetic.lru_stack import stack_distances
from dlrm.data.synthetic.noise import noise_dataset
from dlrm.data.synthetic.trace_profile import read_profile
from dlrm.dataset_tools.synthesize import run_synthesize
from dlrm.errors import ConfigError, DataError
from tests.unit.data.synthetic.id_streams import drifting_stream, ks_distance, lru_hit_rate, scan_stream, zipf_stream

ROWS = (3000, 20_000, 400)
STREAMS = np.stack([zipf_stream(30_000, 3000, 1.05), drifting_stream(30_000), scan_stream(30_000, 400)], axis=1)


@pytest.fixture
def packed(tmp_path):
    """A packed data set in two parts, of which the first 24,000 rows are for training."""
    folder = tmp_path / "packed"
    folder.mkdir()
    parts = []
    for name, ids in (("day_0", STREAMS[:10_000]), ("day_1", STREAMS[10_000:])):
        writer = PartWriter(folder, name, rows=len(ids), num_dense=2, num_sparse=3, wide_ids=name == "day_1")
        writer.write(0, np.ones((len(ids), 2), np.float32), ids.astype(np.int32), np.zeros(len(ids), np.int32))
        parts.append(writer.finish(clicks=0, missing=None))
    manifest = Manifest(
        dense=("d0", "d1"),
        sparse=tuple(SparseRecord(name=f"s{i}", rows=rows) for i, rows in enumerate(ROWS)),
        parts=tuple(parts),
        split={
            "train": (SpanRecord(part="day_0", start=0, stop=10_000), SpanRecord(part="day_1", start=0, stop=14_000)),
            "validation": (SpanRecord(part="day_1", start=14_000, stop=20_000),),
        },
    )
    write_manifest(folder, manifest)
    return str(folder)


@pytest.fixture
def profile(packed, tmp_path):
    path = str(tmp_path / "profile.json")
    run_synthesize(SynthesizeConfig(source=packed, profile=path))
    return path


@pytest.mark.parametrize(("bad", "said"), [(-1, "id -1 is"), (400, "id 400 is")])
def test_an_id_outside_of_its_table_is_named_and_not_profiled(packed, tmp_path, bad, said):
    path = f"{packed}/day_1_sparse.npy"
    ids = np.load(path)
    ids[123, 2] = bad
    np.save(path, ids)
    expected = rf"day_1_sparse\.npy, row 124, column s2: {said} outside of its table \(0 \.\. 399\); mend the data"
    with pytest.raises(DataError, match=expected):
        run_synthesize(SynthesizeConfig(source=packed, profile=str(tmp_path / "profile.json")))
    assert not (tmp_path / "profile.json").exists()


def test_the_training_rows_are_profiled(profile):
    columns = read_profile(profile).columns
    assert [(column.name, column.rows, column.references) for column in columns] == [
        ("s0", 3000, 24_000),
        ("s1", 20_000, 24_000),
        ("s2", 400, 24_000),
    ]
    for column, ids in zip(columns, STREAMS[:24_000].T, strict=True):
        assert column.distinct == len(np.unique(ids))
        assert column.hit_rate(100) == pytest.approx(lru_hit_rate(ids, 100), abs=0.0011)


def test_only_so_many_ids_are_profiled(packed, tmp_path):
    path = str(tmp_path / "profile.json")
    run_synthesize(SynthesizeConfig(source=packed, profile=path, max_ids=11_000))
    assert [column.references for column in read_profile(path).columns] == [11_000] * 3
    assert read_profile(path).columns[1].distinct == len(np.unique(STREAMS[:11_000, 1]))


def test_a_table_says_how_ids_repeat(packed, tmp_path, capsys):
    run_synthesize(SynthesizeConfig(source=packed, profile=str(tmp_path / "profile.json")))
    printed = capsys.readouterr().out
    scan = next(line.replace("│", " ").split() for line in printed.splitlines() if " s2 " in line)
    assert scan == ["s2", "400", "24,000", "400", "1.67%", "400", "400", "0.0%", "98.3%", "98.3%", "98.3%"]
    assert f"profile written: {tmp_path}" in printed.replace("\n", "")


def test_what_is_written_repeats_like_the_source(profile, tmp_path):
    output = tmp_path / "synthetic"
    run_synthesize(SynthesizeConfig(profile=profile, output=str(output), samples=50_000, num_dense=4, seed=3))
    ids_MF = np.load(output / "trace_sparse.npy", allow_pickle=False)
    assert ids_MF.dtype == np.int32
    assert ids_MF.shape == (50_000, 3)
    assert (ids_MF.max(axis=0) < ROWS).all()
    for column, ids, rows in zip(ids_MF.T, STREAMS[:24_000].T, ROWS, strict=True):
        assert ks_distance(stack_distances(column), stack_distances(ids), below=rows) <= 0.02
        assert lru_hit_rate(column, 150) == pytest.approx(lru_hit_rate(ids, 150), abs=0.02)


@pytest.mark.parametrize("num_dense", [4, 0])
def test_what_is_written_reads_as_a_packed_data_set_equal_to_random_data_of_the_trace(profile, tmp_path, num_dense):
    output = str(tmp_path / "synthetic")
    options = {"num_dense": num_dense, "seed": 3, "click_rate": 0.3}
    run_synthesize(SynthesizeConfig(profile=profile, output=output, samples=2005, **options))
    packed = packed_dataset(PackedData(path=output))
    assert [s.num_samples for s in (packed.train, packed.validation, packed.test)] == [1605, 200, 200]
    ids = {"kind": "trace", "path": profile}
    random = noise_dataset(RandomData(train_samples=2005, rows=ROWS, ids=ids, **options)).train.read(torch.arange(2005))
    read = [s.read(torch.arange(s.num_samples)) for s in (packed.train, packed.validation, packed.test)]
    for field in ("dense_BN", "ids_BS", "labels_BT"):
        assert torch.equal(torch.cat([getattr(part, field) for part in read]), getattr(random, field))


def test_the_manifest_says_how_it_was_made(profile, tmp_path):
    output = tmp_path / "synthetic"
    run_synthesize(SynthesizeConfig(profile=profile, output=str(output), samples=100, seed=9))
    manifest = json.loads((output / "dataset.json").read_text())
    assert manifest["preprocessing"]["parameters"]["seed"] == 9
    with open(profile, "rb") as file:
        assert manifest["preprocessing"]["profile_sha256"] == hashlib.sha256(file.read()).hexdigest()
    labels = np.load(output / "trace_labels.npy", allow_pickle=False)
    assert manifest["parts"][0]["clicks"] == labels.sum()


@pytest.mark.parametrize(
    ("rows", "expected"), [((50,), (50, 50, 50)), ((9, 8, 7, 6, 5), (9, 8, 7, 6, 5)), (None, ROWS)]
)
def test_tables_of_any_size_and_number_are_written(profile, tmp_path, rows, expected):
    output = tmp_path / "synthetic"
    run_synthesize(SynthesizeConfig(profile=profile, output=str(output), samples=3000, rows=rows))
    ids_MF = np.load(output / "trace_sparse.npy", allow_pickle=False)
    assert ids_MF.shape == (3000, len(expected))
    assert (ids_MF.max(axis=0) < expected).all()
    manifest = json.loads((output / "dataset.json").read_text())
    assert tuple(feature["rows"] for feature in manifest["sparse"]) == expected


def test_a_folder_can_be_profiled_and_written_in_one_run(packed, tmp_path):
    config = {"source": packed, "profile": str(tmp_path / "p.json"), "samples": 500, "rows": (40,)}
    run_synthesize(SynthesizeConfig(**config, output=str(tmp_path / "synthetic")))
    assert [column.rows for column in read_profile(str(tmp_path / "p.json")).columns] == list(ROWS)
    assert np.load(tmp_path / "synthetic" / "trace_sparse.npy", allow_pickle=False).max() == 39


def test_neither_source_nor_output_is_a_mistake(profile):
    with pytest.raises(ConfigError, match="source: give a data set to profile"):
        run_synthesize(SynthesizeConfig(profile=profile))


def test_an_output_that_holds_data_is_refused_before_anything_is_done(packed, tmp_path):
    path = tmp_path / "profile.json"
    with pytest.raises(ConfigError, match=r"output: .* holds a packed data set already: name another folder"):
        run_synthesize(SynthesizeConfig(source=packed, profile=str(path), output=packed))
    assert not path.exists()


@pytest.mark.parametrize("name", ["trace_dense.npy", "day_0_labels.npy", "day_0_sparse.npy.unfinished"])
def test_an_output_that_holds_files_of_a_data_set_is_refused_without_a_manifest_as_well(profile, tmp_path, name):
    output = tmp_path / "new"
    output.mkdir()
    (output / name).write_text("precious")
    with pytest.raises(ConfigError, match=rf"output: .* holds {name} already: move it away or name another folder"):
        run_synthesize(SynthesizeConfig(profile=profile, output=str(output), samples=100))
    assert {path.name: path.read_text() for path in output.iterdir()} == {name: "precious"}


def test_a_run_that_was_killed_is_begun_again(profile, tmp_path):
    output = tmp_path / "new"
    PartWriter(make(output), "trace", rows=9, num_dense=1, num_sparse=1, wide_ids=False).close()
    run_synthesize(SynthesizeConfig(profile=profile, output=str(output), samples=100))
    assert len(np.load(output / "trace_labels.npy", allow_pickle=False)) == 100
    assert not list(output.glob("*.unfinished"))


def make(folder):
    folder.mkdir()
    return folder


def test_a_file_that_is_no_profile_is_not_replaced_by_one(packed, tmp_path):
    path = tmp_path / "notes.json"
    path.write_text('{"format": "notes"}')
    with pytest.raises(ConfigError, match=r"profile: .*notes\.json is there and no profile"):
        run_synthesize(SynthesizeConfig(source=packed, profile=str(path)))
    assert path.read_text() == '{"format": "notes"}'


def test_a_profile_is_replaced(packed, profile):
    run_synthesize(SynthesizeConfig(source=packed, profile=profile, max_ids=1000))
    assert read_profile(profile).columns[0].references == 1000


def test_a_table_beyond_31_bits_is_refused(profile, tmp_path):
    config = SynthesizeConfig(profile=profile, output=str(tmp_path / "new"), rows=(9, 2**31))
    with pytest.raises(ConfigError, match=r"rows: table 1 has 2,147,483,648 rows"):
        run_synthesize(config)
    assert not (tmp_path / "new").exists()


def test_folders_that_cannot_be_are_refused(packed, profile, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="file/new: cannot be written"):
        run_synthesize(SynthesizeConfig(profile=profile, output=str(tmp_path / "file" / "new")))
    with pytest.raises(DataError, match=r"file/profile\.json: cannot be written"):
        run_synthesize(SynthesizeConfig(source=packed, profile=str(tmp_path / "file" / "profile.json")))
    with pytest.raises(DataError, match="nothing"):
        run_synthesize(SynthesizeConfig(source=str(tmp_path / "nothing"), profile=str(tmp_path / "p.json")))


def test_a_data_set_without_training_rows_is_refused(tmp_path):
    folder = tmp_path / "empty"
    folder.mkdir()
    for name, columns, dtype in (("dense", 1, np.float32), ("sparse", 1, np.int32), ("labels", 1, np.int32)):
        np.save(folder / f"day_0_{name}.npy", np.empty((0, columns), dtype))
    with pytest.raises(DataError, match=r"no (training )?rows|empty"):
        run_synthesize(SynthesizeConfig(source=str(folder), profile=str(tmp_path / "p.json"), rows=(3,)))
