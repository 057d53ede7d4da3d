"""What an export holds of preprocessing is checked before it is used, and needs no trainer."""

import subprocess
import sys

import pytest
import torch
from pydantic import TypeAdapter, ValidationError

from dlrm.errors import ExportError
from dlrm.inference.raw import Preprocessing, PreprocessingRecord

RECORDS = TypeAdapter(PreprocessingRecord)
DENSE = {
    "logarithm": "numpy",
    "minimum": -2.0,
    "shift": 3.0,
    "columns": [{"name": "int_0", "missing": 1.0}],
}
VOCABULARY = {
    "kind": "vocabulary",
    "name": "cat_0",
    "rows": 4,
    "missing": 0,
    "unseen": 1,
    "first": 2,
    "ascending": False,
}
CRITEO = {"kind": "criteo", "tasks": ["label"], "dense": DENSE, "categories": [VOCABULARY]}
ENCODED = {"kind": "encoded", "tasks": ["label"], "dense": ["x"], "sparse": [{"name": "ad", "rows": 5}]}

BAGS = {"kind": "hashed", "hotness": [2], "distribution": "uniform", "seed": 0}


def load(document, arrays=None):
    import json

    return Preprocessing.load(RECORDS.validate_json(json.dumps(document)), arrays or {})


def arrays(values=(5, 9), ids=(3, 2), dtype=torch.int64):
    return {"cat_0.values": torch.tensor(values, dtype=dtype), "cat_0.ids": torch.tensor(ids, dtype=torch.int64)}


def test_a_record_and_its_arrays_are_a_preprocessing():
    preprocessing = load(CRITEO, arrays())
    assert preprocessing.from_json([{"cat_0": "9"}, {"cat_0": "5"}, {}, {"cat_0": "6"}]).ids_BS.tolist() == [
        [2], [3], [0], [1],
    ]  # fmt: skip
    assert load(ENCODED).from_json([{"x": 1.5, "ad": 4}]).ids_BS.tolist() == [[4]]


@pytest.mark.parametrize(
    ("document", "where"),
    [
        ({**CRITEO, "kind": "other"}, "kind"),
        ({**CRITEO, "more": 1}, "criteo.more"),
        ({**CRITEO, "tasks": []}, "criteo.tasks"),
        ({**CRITEO, "beyond": "skip"}, "criteo.beyond"),
        ({**CRITEO, "categories": [{**VOCABULARY, "rows": "4"}]}, "criteo.categories.0.vocabulary.rows"),
        ({**CRITEO, "categories": [{**VOCABULARY, "rows": True}]}, "criteo.categories.0.vocabulary.rows"),
        ({**CRITEO, "dense": {**DENSE, "shift": 0.0}}, "criteo.dense.shift"),
        ({**CRITEO, "dense": {**DENSE, "columns": []}}, "criteo.dense.columns"),
        ({**ENCODED, "sparse": [{"name": "ad", "rows": 0}]}, "encoded.sparse.0.rows"),
        ({**ENCODED, "sparse": [{"name": "ad", "rows": 5, "hotness": 2}]}, "encoded.sparse.0"),
        ({**ENCODED, "dense": ["ad"]}, "encoded"),
        ({**ENCODED, "sparse": [{"name": "ad", "rows": 5, "lists": True}], "bags": BAGS}, "encoded"),
        ({**ENCODED, "dense_missing": float("nan")}, "encoded.dense_missing"),
    ],
)
def test_a_record_is_read_strictly(document, where):
    with pytest.raises(ValidationError) as caught:
        load(document, arrays())
    found = [".".join(map(str, error["loc"])) for error in caught.value.errors()]
    assert found[0] == (where if where != "kind" else "")


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({}, "holds no cat_0.values"),
        ({"cat_0.values": torch.tensor([5, 9])}, "holds no cat_0.ids"),
        (arrays(values=(9, 5)), "cat_0.values are not ascending 32-bit values"),
        (arrays(values=(5, 5)), "not ascending"),
        (arrays(values=(-5, 5)), "not ascending 32-bit"),
        (arrays(values=(5, 2**32)), "not ascending 32-bit"),
        (arrays(values=(5,)), "cat_0: 1 values and 4 ids contradict each other"),
        (arrays(ids=(2, 2)), "cat_0.ids are not those of its values"),
        (arrays(ids=(3, 4)), "cat_0.ids are not those of its values"),
        (arrays(ids=(3,)), "cat_0.ids are not those of its values"),
        (arrays(dtype=torch.int32), "cat_0.values is torch.int32 with 1 dimensions"),
        (arrays(values=((5, 9),)), "with 2 dimensions"),
    ],
)
def test_arrays_that_are_not_those_of_the_record_are_refused(given, words):
    with pytest.raises(ExportError, match=words):
        load(CRITEO, given)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"categories": [VOCABULARY, VOCABULARY]}, "a column is listed twice"),
        ({"categories": [{**VOCABULARY, "name": "int_0"}]}, "a column is listed twice"),
        ({"categories": [VOCABULARY, {"kind": "ids", "name": "cat_1", "rows": 5}]}, "some categories are decimal ids"),
        ({"categories": [{**VOCABULARY, "missing": 4}]}, "contradict each other"),
        ({"buckets": [{**VOCABULARY, "name": "cat_1"}]}, "buckets are not those of the integer columns"),
        ({"rows": [4, 4]}, "has 2 sizes of 1 tables"),
        ({"dense": {**DENSE, "minimum": -3.0}}, "minimum \\+ shift is outside of the logarithm"),
    ],
)
def test_a_record_that_contradicts_itself_is_refused(change, words):
    with pytest.raises(ExportError, match=words):
        load(CRITEO | change, arrays())


def test_a_process_that_reads_raw_rows_loads_neither_torchrec_nor_training():
    program = (
        "import json, sys\n"
        "import pyarrow as pa\n"
        "from pydantic import TypeAdapter\n"
        "from dlrm.inference.raw import Preprocessing, PreprocessingRecord\n"
        "record = TypeAdapter(PreprocessingRecord).validate_json(sys.argv[1])\n"
        "preprocessing = Preprocessing.load(record, {})\n"
        "row = preprocessing.example()\n"
        "preprocessing.from_json([row]); preprocessing.from_arrow(pa.table({k: [v] for k, v in row.items()}))\n"
        "preprocessing.from_tsv(b'1\\ta\\n', labelled=False)\n"
        "heavy = ('torchrec', 'fbgemm_gpu', 'dlrm.train', 'dlrm.models', 'dlrm.sharding', 'dlrm.optim', 'dlrm.run')\n"
        "print([name for name in sys.modules if name.startswith(heavy)])"
    )
    record = CRITEO | {"categories": [{"kind": "hashing", "name": "cat_0", "rows": 9}]}
    command = [sys.executable, "-c", program, RECORDS.validate_python(record, strict=False).model_dump_json()]
    assert subprocess.run(command, capture_output=True, text=True, check=True, timeout=200).stdout.strip() == "[]"
