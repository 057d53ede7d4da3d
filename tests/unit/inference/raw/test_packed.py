"""Raw rows of packed data: what ``preprocess`` made of the same rows, or the numbers and ids of data from elsewhere."""

import json
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import numpy as np
import pytest
import torch

from dlrm.config.data import PackedData
from dlrm.data.build import build_dataset
from dlrm.errors import DataError, ExportError
from dlrm.inference.raw import Preprocessing, preprocessing_of
from dlrm.inference.raw.record import CriteoRecord, EncodedRecord
from tests.unit.data.packed import packed_files
from tests.unit.inference.raw.forms import all_forms, assert_same, reloaded, trained_on
from tests.unit.preprocess.tiny_criteo import NUM_DENSE, make, make_rows, write_raw

ROWS = (61, 47)
EXTREME = ["1", "-1025", "65536", "8", "9", "a"]  # integers on both sides of what preprocess looks up
RECIPES = {
    "separate": {},
    "min_count": {"categories": {"kind": "vocabulary", "min_count": 2}},
    "mlperf": {"categories": {"kind": "vocabulary", "of": "all", "reserved": "mlperf"}},
    "hashing": {"categories": {"kind": "hashing", "rows": [50, 60, 1000]}},
    "dense": {"dense": {"shift": 2000.5, "minimum": -2000.25, "missing": -7.5}},
}


def raw_rows() -> list[list[str]]:
    rows = [fields for day, count in enumerate(ROWS) for fields in make_rows(count, seed=day)]
    extremes = [[*EXTREME[:1], str(n), str(-n), *EXTREME[3:]] for n in (1024, 65_535, 65_536, 10**9, 10**18 - 1)]
    return [*rows, *extremes]


def as_json(fields: list[str]) -> dict:
    names = [*(f"int_{i}" for i in range(NUM_DENSE)), *(f"cat_{i}" for i in range(3))]
    values = [field or None for field in fields[1:]]
    return {
        name: int(value) if value and name.startswith("int") else value
        for name, value in zip(names, values, strict=True)
    }


@pytest.fixture(scope="module", params=RECIPES, ids=list(RECIPES))
def written(request, tmp_path_factory):
    """A packed data set of one part, and the text that it was made of."""
    folder = tmp_path_factory.mktemp("packed")
    write_raw(folder / "raw", rows=())
    text = "".join("\t".join(fields) + "\n" for fields in raw_rows()).encode()
    (folder / "raw" / "day_0").write_bytes(text)
    split = {"train": ["day_0"]}
    return make(folder / "raw", folder / "packed", split=split, **RECIPES[request.param]), text


def opened(folder, **options):
    config = PackedData.model_validate({"path": str(folder), **options})
    dataset = build_dataset(config)
    return dataset, reloaded(preprocessing_of(config, dataset))


def test_raw_rows_are_what_preprocess_wrote(written):
    folder, text = written
    dataset, preprocessing = opened(folder)
    assert isinstance(preprocessing.record, CriteoRecord)
    assert preprocessing.schema == dataset.schema
    expected = trained_on(dataset.train)
    features, labels_BT = preprocessing.from_tsv(text, labelled=True)
    assert_same(features, expected, dataset.schema)
    assert torch.equal(labels_BT, expected.labels_BT)
    for form in all_forms(preprocessing, [as_json(fields) for fields in raw_rows()]).values():
        assert_same(form, expected, dataset.schema)


@pytest.mark.parametrize("bad_rows", ["hash", "clamp"])
def test_smaller_tables_get_the_ids_that_they_were_trained_with(written, bad_rows):
    folder, text = written
    dataset, preprocessing = opened(folder, rows=[11], bad_rows=bad_rows)
    assert preprocessing.schema == dataset.schema
    features, _ = preprocessing.from_tsv(text, labelled=True)
    assert_same(features, trained_on(dataset.train), dataset.schema)


@pytest.mark.parametrize(
    "multi_hot",
    [
        {"kind": "hashed", "hotness": [3, 1, 5], "seed": 7},
        {"kind": "hashed", "hotness": 4, "distribution": "pareto"},
        {"kind": "mlperf", "hotness": [3, 1, 5]},
    ],
)
@pytest.mark.parametrize("bad_rows", ["error", "clamp"])
def test_bags_are_made_as_they_were_in_training(written, multi_hot, bad_rows):
    folder, text = written
    options = {"rows": [11], "bad_rows": bad_rows} if bad_rows == "clamp" else {}
    dataset, preprocessing = opened(folder, multi_hot=multi_hot, **options)
    assert preprocessing.schema == dataset.schema
    features, _ = preprocessing.from_tsv(text, labelled=True)
    assert_same(features, trained_on(dataset.train), dataset.schema)


def test_a_sample_that_training_would_have_skipped_is_an_error(written):
    folder, text = written
    _, preprocessing = opened(folder, rows=[3], bad_rows="skip")
    with pytest.raises(DataError, match=r"body, row \d+, column cat_\d: id \d+ is outside of its table \(0 \.\. 2\)"):
        preprocessing.from_tsv(text, labelled=True)


@pytest.mark.parametrize("rows", [1, 3])
def test_the_example_of_smaller_tables_has_ids_inside_of_them(written, rows):
    folder, _ = written
    _, preprocessing = opened(folder, rows=[rows], bad_rows="skip")
    example = preprocessing.example()
    assert preprocessing.from_json([example]).ids_BS.max() < rows
    line = "\t".join("" if value is None else str(value) for value in example.values())
    preprocessing.from_tsv(line.encode(), labelled=False)


def test_tables_too_small_for_any_row_are_refused_when_they_are_read():
    """The only id of a value is beyond the table, and neither a missing nor an unseen one has an id."""
    vocabulary = {"kind": "vocabulary", "name": "cat_0", "rows": 2, "missing": None, "unseen": None}
    record = CriteoRecord.model_validate(
        {
            "tasks": ("label",),
            "dense": {"logarithm": "numpy", "minimum": -2.0, "shift": 3.0, "columns": ({"name": "x", "missing": 1.0},)},
            "categories": ({**vocabulary, "first": 1, "ascending": True},),
            "rows": (1,),
        }
    )
    with pytest.raises(ExportError, match="its tables are too small for its own example"):
        Preprocessing.load(record, {"cat_0.values": torch.tensor([7])})


@pytest.fixture(scope="module")
def mlperf(tmp_path_factory):
    """Preprocessed as MLPerf does; the first category is never missing."""
    folder = tmp_path_factory.mktemp("mlperf")
    (folder / "raw").mkdir()
    (folder / "raw" / "day_0").write_text("0\t1\t2\ta\tb\tc\n1\t3\t4\td\t\tf\n0\t3\t4\td\te\t\n")
    categories = RECIPES["mlperf"]["categories"]
    return make(folder / "raw", folder / "packed", split={"train": ["day_0"]}, categories=categories)


def test_a_category_without_an_id_is_named(mlperf):
    _, preprocessing = opened(mlperf)
    row = preprocessing.example()
    words = r"body, row 2, column cat_1: category 000000aa is not in the vocabulary, .* categories.reserved mlperf"
    with pytest.raises(DataError, match=words):
        preprocessing.from_json([row, {**row, "cat_1": "aa"}])


def test_a_category_that_is_never_missing_may_not_be_missing(mlperf):
    _, preprocessing = opened(mlperf)
    assert [column.may_be_missing for column in preprocessing.columns if column.kind == "category"] == [
        False,
        True,
        True,
    ]
    row = {**preprocessing.example(), "cat_0": None}
    with pytest.raises(DataError, match="row 1, column cat_0: is missing, and the vocabulary has no id for that"):
        preprocessing.from_json([row])
    for line in (b"1\t2\t\tb\tc\n", b"5\t\t\tb\tc"):
        with pytest.raises(DataError, match="row 1, column cat_0: a missing category is not in the vocabulary"):
            preprocessing.from_tsv(line, labelled=False)


def test_a_damaged_or_lost_vocabulary_is_an_error(mlperf):
    [path] = mlperf.rglob("cat_1.npy")
    good = path.read_bytes()
    config = PackedData.model_validate({"path": str(mlperf)})
    dataset = build_dataset(config)
    try:
        path.write_bytes(good[:-1] + bytes([good[-1] ^ 1]))
        with pytest.raises(DataError, match=r"cat_1.npy: is not the vocabulary that dataset.json lists \(checksum\)"):
            preprocessing_of(config, dataset)
        path.unlink()
        with pytest.raises(DataError, match=r"cat_1.npy: cannot be read \(No such file"):
            preprocessing_of(config, dataset)
    finally:
        path.write_bytes(good)


def test_vocabularies_of_remote_data_are_fetched(mlperf, tmp_path, monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    handler = partial(SimpleHTTPRequestHandler, directory=str(mlperf))
    monkeypatch.setattr(SimpleHTTPRequestHandler, "log_message", lambda *_: None)
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            _, preprocessing = opened(f"http://127.0.0.1:{server.server_port}", cache_dir=str(tmp_path))
        finally:
            server.shutdown()
            thread.join()
    _, local = opened(mlperf)
    assert preprocessing.record == local.record
    assert {name: array.tolist() for name, array in preprocessing.arrays.items()} == {
        name: array.tolist() for name, array in local.arrays.items()
    }


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"num_dense": "x"}, r"preprocessing\.parameters\.num_dense"),
        ({"num_sparse": 2}, "its columns are not those of preprocessing.parameters"),
        ({"categories": {"kind": "hashing", "rows": [5]}}, "its columns are not those"),
    ],
)
def test_recorded_parameters_that_contradict_the_data_are_an_error(mlperf, change, words):
    path = mlperf / "dataset.json"
    good = path.read_text()
    manifest = json.loads(good)
    manifest["preprocessing"]["parameters"] |= change
    try:
        path.write_text(json.dumps(manifest))
        config = PackedData.model_validate({"path": str(mlperf)})
        with pytest.raises(DataError, match=words):
            preprocessing_of(config, build_dataset(config))
    finally:
        path.write_text(good)


@pytest.mark.parametrize("multi_hot", ["one_hot", "files", "hashed", "mlperf"])
@pytest.mark.parametrize("manifest", [True, False])
def test_data_without_a_recipe_take_numbers_and_ids(tmp_path, multi_hot, manifest):
    packed_files.write_days(tmp_path, multi_hot=True, manifest=manifest)
    made = {"kind": multi_hot} | ({"hotness": 3} if multi_hot in ("hashed", "mlperf") else {})
    options = {} if manifest else {"rows": packed_files.ROWS}
    dataset, preprocessing = opened(tmp_path, multi_hot=made, **options)
    assert isinstance(preprocessing.record, EncodedRecord)
    assert preprocessing.schema == dataset.schema
    expected = trained_on(dataset.train)
    stored = [np.load(tmp_path / f"day_{day}_sparse.npy") for day in range(2)]
    one_hot = np.concatenate(stored)
    rows = []
    for dense, ids, single in zip(expected.dense_BN.tolist(), expected.ids_BS.tolist(), one_hot.tolist(), strict=True):
        row = {f"int_{i}": value for i, value in enumerate(dense)}
        if multi_hot == "files":
            row |= {"cat_0": ids[:2], "cat_1": ids[2], "cat_2": ids[3:]}
        else:
            row |= {f"cat_{i}": value for i, value in enumerate(single)}
        rows.append(row)
    for features in all_forms(preprocessing, rows).values():
        assert_same(features, expected, dataset.schema)
