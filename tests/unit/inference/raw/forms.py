"""Raw rows in every form, and features to compare."""

import json

import pyarrow as pa
import torch
from pydantic import TypeAdapter
from safetensors.torch import load, save

from dlrm.data.check import SampleCheck
from dlrm.inference.raw import Preprocessing, PreprocessingRecord


def reloaded(preprocessing: Preprocessing) -> Preprocessing:
    """The same by way of a manifest's JSON and a file of arrays."""
    text = json.dumps({"preprocessing": preprocessing.record.model_dump(mode="json")})
    record = TypeAdapter(PreprocessingRecord).validate_json(json.dumps(json.loads(text)["preprocessing"]))
    assert record == preprocessing.record
    return Preprocessing.load(record, load(save(preprocessing.arrays)))


def trained_on(source, count=None):
    """What a model was trained on of a source's samples, in order: checked, and mended where that is configured."""
    index_B = torch.arange(source.num_samples if count is None else count)
    return SampleCheck(source)(source.read(index_B), index_B)


def assert_same(features, expected, schema) -> None:
    """Bit for bit the same rows; a bag without a length is full."""
    assert features.dense_BN.dtype == torch.float32
    assert torch.equal(features.dense_BN.view(torch.int32), expected.dense_BN.contiguous().view(torch.int32))
    assert torch.equal(features.ids_BS.long(), expected.ids_BS.long())
    assert features.ids_BS.dtype in (torch.int32, torch.int64)
    full_F = torch.tensor([feature.hotness for feature in schema.sparse], dtype=torch.int32)
    lengths = [
        full_F.expand(len(features), -1) if rows.lengths_BF is None else rows.lengths_BF
        for rows in (features, expected)
    ]
    assert lengths[0].dtype == lengths[1].dtype == torch.int32
    assert torch.equal(*lengths)


def all_forms(preprocessing, rows, types=None):
    """Features of rows of JSON values by form; each row by itself, too."""
    rows = json.loads(json.dumps(rows))
    names = [column.name for column in preprocessing.columns]
    columns = {name: [row.get(name) for row in rows] for name in names}
    table = pa.table({name: pa.array(values, (types or {}).get(name)) for name, values in columns.items()})
    singles = [preprocessing.from_json([row]) for row in rows]
    return {
        "rows": preprocessing.from_json(rows),
        "one by one": type(singles[0]).joined(singles, preprocessing.schema),
        "columns": preprocessing.from_columns(columns),
        "arrow": preprocessing.from_arrow(table.append_column("other", pa.nulls(len(rows)))),
    }
