"""New files with the ids and dense values of a data set that is there."""

import json
import shutil

import numpy as np
import pytest
import torch

from dlrm.config import load_config
from dlrm.config.data import CriteoTsvData, PackedData
from dlrm.data.packed.dataset import packed_dataset
from dlrm.data.packed.manifest import parse_manifest
from dlrm.data.packed.raw_encoding import encoding_of_data
from dlrm.data.raw.criteo_tsv import criteo_tsv_dataset
from dlrm.data.raw.vocabulary import NO_ID
from dlrm.diagnose.preflight import reserved_ids
from dlrm.errors import ConfigError, DataError
from dlrm.train.build import check_options
from tests.unit.preprocess.tiny_criteo import ROWS, arrays, contents, expected, make, make_rows, write_raw

DAYS = [make_rows(count, seed=day) for day, count in enumerate(ROWS)]
TRAINING = DAYS[0] + DAYS[1]
NEW = make_rows(70, seed=9)


@pytest.fixture(scope="module")
def packed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("packed")
    return make(write_raw(folder / "raw"), folder / "out", dense={"shift": 4.0})


@pytest.fixture
def new(tmp_path):
    path = tmp_path / "new" / "day_25"
    path.parent.mkdir()
    path.write_text("".join("\t".join(fields) + "\n" for fields in NEW))
    return path


def manifest_of(folder):
    return parse_manifest((folder / "dataset.json").read_text(), "dataset.json")


@pytest.mark.parametrize(
    "categories",
    [{"kind": "vocabulary"}, {"kind": "vocabulary", "reserved": "mlperf"}, {"kind": "hashing", "rows": 7}],
    ids=["separate", "mlperf", "hashed"],
)
def test_the_look_at_data_knows_the_reserved_ids_and_reads_no_whole_vocabulary(tmp_path, monkeypatch, categories):
    output = make(write_raw(tmp_path / "raw"), tmp_path / "out", categories=categories)
    config = PackedData(path=str(output))
    encoding, dataset = encoding_of_data(config), packed_dataset(config)
    loaded = []
    load = np.load

    def noted(path, **options):
        loaded.append(options.get("mmap_mode"))
        return load(path, **options)

    monkeypatch.setattr(np, "load", noted)
    monkeypatch.setattr("dlrm.data.packed.raw_encoding.sha256_of", lambda path: pytest.fail(f"{path} is read"))
    found = reserved_ids(config, dataset)
    assert set(loaded) == ({"r"} if categories.get("reserved") == "mlperf" else set())
    expected = {
        name: {getattr(one, "missing", 0), getattr(one, "unseen", 0)} - {NO_ID}
        for name, one in encoding.categories.items()
    }
    assert found == expected
    assert found


@pytest.mark.parametrize("shuffle", [False, True])
def test_new_rows_get_the_ids_and_values_of_the_old_and_what_is_unseen_id_1(packed, new, tmp_path, shuffle):
    output = make(new.parent, tmp_path / "out", vocabulary_from=str(packed), shuffle=shuffle)
    _, ids, labels = expected(NEW, TRAINING)
    found_dense, found_ids, found_labels = arrays(output, "day_25")
    seen = {fields[5] for fields in TRAINING}
    unseen = np.array([bool(fields[5]) and fields[5] not in seen for fields in NEW])
    assert 5 < unseen.sum() < 65
    if shuffle:
        order = [
            np.lexsort(np.concatenate([part.T, label.T])) for part, label in ((found_ids, found_labels), (ids, labels))
        ]
        assert (found_ids != ids).any()
        np.testing.assert_array_equal(found_ids[order[0]], ids[order[1]])
    else:
        np.testing.assert_array_equal(found_ids, ids)
        assert ((found_ids[:, 2] == 1) == unseen).all()
        values = [[max(float(field), -2) if field else 0.0 for field in fields[1:3]] for fields in NEW]
        np.testing.assert_allclose(found_dense, np.log(np.array(values) + 4), rtol=1e-6)
    old, made = manifest_of(packed), manifest_of(output)
    assert made.sparse == old.sparse
    assert [(span.part, span.start, span.stop) for span in made.split["train"]] == [("day_25", 0, 70)]
    assert [record.sha256 for record in made.vocabularies.values()] == [
        record.sha256 for record in old.vocabularies.values()
    ]
    assert made.preprocessing["parameters"]["dense"]["shift"] == 4.0
    before = contents(output)
    make(new.parent, output, vocabulary_from=str(packed), shuffle=shuffle)
    assert contents(output) == before
    assert not (output / "preprocess.work").exists()


def test_the_old_files_come_out_as_they_were_and_the_new_data_set_can_be_adopted_in_turn(packed, tmp_path):
    raw = write_raw(tmp_path / "raw", rows=ROWS)
    again = make(raw, tmp_path / "again", vocabulary_from=str(packed), split={"train": ["day_0..day_2"]})
    for day in range(3):
        for one, other in zip(arrays(again, f"day_{day}"), arrays(packed, f"day_{day}"), strict=True):
            np.testing.assert_array_equal(one, other)
    shutil.copytree(packed, tmp_path / "copy")
    thrice = make(raw, tmp_path / "thrice", vocabulary_from=str(again))
    np.testing.assert_array_equal(arrays(thrice, "day_1")[1], arrays(packed, "day_1")[1])


def test_hashed_categories_are_hashed_as_before(new, tmp_path):
    hashed = {"kind": "hashing", "rows": [50]}
    first = make(write_raw(tmp_path / "raw"), tmp_path / "first", categories=hashed)
    found = make(new.parent, tmp_path / "found", vocabulary_from=str(first))
    alone = make(new.parent, tmp_path / "alone", categories=hashed, split={"train": ["day_25"]})
    np.testing.assert_array_equal(arrays(found, "day_25")[1], arrays(alone, "day_25")[1])


def test_raw_files_that_are_read_directly_get_the_same_ids_and_values(packed, new, tmp_path):
    output = make(new.parent, tmp_path / "out", vocabulary_from=str(packed))
    config = CriteoTsvData(
        paths=(str(new),), vocabulary_from=str(packed), num_dense=2, split={"validation": 10, "test": 0}
    )
    dataset = criteo_tsv_dataset(config)
    dense, ids, labels = arrays(output, "day_25")
    samples = dataset.train.read(torch.arange(60))
    np.testing.assert_array_equal(samples.ids_BS, ids[:60])
    np.testing.assert_array_equal(samples.dense_BN, dense[:60])
    np.testing.assert_array_equal(samples.labels_BT, labels[:60])
    np.testing.assert_array_equal(dataset.validation.read(torch.arange(10)).ids_BS, ids[60:])
    assert [feature.rows for feature in dataset.schema.sparse] == [record.rows for record in manifest_of(packed).sparse]
    assert [file.name for file in dataset.train.fingerprint()] == ["day_25", "dataset.json"]


def test_what_cannot_be_adopted_is_said_in_one_line(packed, new, tmp_path):
    def refused(error, match, folder=packed, **changes):
        with pytest.raises(error, match=match):
            make(new.parent, tmp_path / "out", vocabulary_from=str(folder), **changes)
        assert not (tmp_path / "out").exists() or not list((tmp_path / "out").glob("*.npy"))

    refused(ConfigError, "^dense.shift: is decided by .*leave it out", dense={"shift": 3.0})
    refused(ConfigError, "^categories.min_count: is decided by", categories={"kind": "vocabulary", "min_count": 2})
    refused(ConfigError, "^num_sparse: is decided by", num_sparse=4)
    with pytest.raises(ConfigError, match="choose another output"):
        make(new.parent, packed, vocabulary_from=str(packed))
    refused(DataError, "no such folder", folder=tmp_path / "nowhere")
    refused(ConfigError, "was not written by preprocess", folder=tmp_path)
    mlperf = {"kind": "vocabulary", "of": "all", "reserved": "mlperf"}
    old = make(write_raw(tmp_path / "raw"), tmp_path / "mlperf", categories=mlperf)
    refused(ConfigError, "reserved mlperf, which has no id for categories", folder=old)
    damaged = shutil.copytree(packed, tmp_path / "damaged")
    path = damaged / "vocabulary" / "cat_1.npy"
    path.write_bytes(path.read_bytes()[:-1] + b"\x00")
    refused(DataError, r"cat_1.npy.*is not the vocabulary that dataset.json lists", folder=damaged)
    with pytest.raises(ConfigError, match=r"data\.num_sparse: is decided by"):
        criteo_tsv_dataset(CriteoTsvData(paths=(str(new),), vocabulary_from=str(packed), num_sparse=9))


def test_another_vocabulary_is_another_data_set(packed, new, tmp_path):
    output = make(new.parent, tmp_path / "out", vocabulary_from=str(packed))
    other = make(write_raw(tmp_path / "raw", rows=(20, 20, 20)), tmp_path / "other", dense={"shift": 4.0})
    with pytest.raises(ConfigError, match=r"made with other parameters \(vocabulary_from: "):
        make(new.parent, output, vocabulary_from=str(other))
    recorded = json.loads((output / "dataset.json").read_text())["preprocessing"]["parameters"]
    assert str(packed) not in json.dumps(recorded)


def test_days_of_raw_files_are_what_of_each_is_for_training(tmp_path):
    raw = write_raw(tmp_path / "raw")
    paths = [str(raw / f"day_{day}") for day in range(3)]
    split = {"validation": 40, "test": 3}
    dataset = criteo_tsv_dataset(CriteoTsvData(paths=paths, num_dense=2, num_sparse=3, split=split))
    assert [(day.name, day.samples) for day in dataset.train.days] == [("day_0", 61), ("day_1", 37)]
    assert [(day.name, day.samples) for day in dataset.validation.days] == [("day_1", 10), ("day_2", 30)]


@pytest.mark.parametrize("shuffle", [False, True])
def test_rows_that_were_shuffled_over_days_are_no_days(tmp_path, shuffle):
    output = make(write_raw(tmp_path / "raw"), tmp_path / "out", shuffle=shuffle)
    dataset = packed_dataset(PackedData(path=str(output)))
    assert [day.name for day in dataset.train.days] == ["day_0", "day_1"]
    assert bool(dataset.train.days_are_mixed) == shuffle
    config = load_config(None, ["train.by_day=true"])
    if not shuffle:
        check_options(config, dataset)
        return
    with pytest.raises(ConfigError, match=r"train\.by_day: has no days in .* preprocessed with shuffle, which mixes"):
        check_options(config, dataset)
