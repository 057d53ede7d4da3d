"""Whose row is whose, where tables, rules and vocabularies of two trainings differ."""

from types import SimpleNamespace

import pytest
import torch

from dlrm.checkpoint.tensors import GlobalTensor
from dlrm.config import load_config
from dlrm.config.describe import to_plain
from dlrm.config.prepare import PackConfig
from dlrm.data.build import build_dataset
from dlrm.data.raw.row_map import NO_ROW
from dlrm.dataset_tools.pack import run_pack
from dlrm.lookups.plan import lookups_of, with_table_rows
from dlrm.schema import Schema
from dlrm.train.checkpointing.row_matching import RowMatching
from dlrm.train.checkpointing.warm_start import _lines_of_sums, _Transfer
from tests.dist.test_warm_start import write_rows
from tests.unit.data.parquet.parquet_files import write

ROWS = (300, 40)
NO_VOCABULARIES = SimpleNamespace(vocabularies=dict)
SHARED = "model.shared_tables={both: [cat_0, cat_1]}"
TSV = ["data.kind=criteo_tsv", "data.num_dense=2", "data.num_sparse=2", "data.split={validation: 10, test: 10}"]


def of_table(name, kind):
    return [f"model.tables.{name}.embedding={{{kind}}}"]


def checkpoint(words, schema, vocabularies=None):
    """A reader of what a training with these options has saved, as far as rows are concerned."""
    config = load_config(None, words)
    tables = lookups_of(config.model, with_table_rows(config.model, schema)).tables
    tensors = {f"tables.{table.name}.weight": SimpleNamespace(shape=(table.rows, table.dim)) for table in tables}
    metadata = {"config": to_plain(config), "vocabularies": vocabularies}
    return SimpleNamespace(tensors=tensors, checkpoint=SimpleNamespace(path="step_1", metadata=metadata))


def matching(words, schema, reader, train=NO_VOCABULARIES):
    config = load_config(None, [*words, "warm_start.checkpoint=run"])
    lookups = lookups_of(config.model, with_table_rows(config.model, schema))
    return RowMatching(config, lookups, reader, train), lookups


def faults(here, there, rows_here=ROWS, rows_there=ROWS):
    found, lookups = matching(here, Schema.numbered(2, rows_here), checkpoint(there, Schema.numbered(2, rows_there)))
    return [fault for table in lookups.tables if (fault := found.fault(table.name, table.rows))]


HASHED, MODULO = "kind: hashed, rows: 50", "kind: hashed, rows: 50, hash: modulo"
SPLIT = "kind: quotient_remainder, ids_per_row: 20, min_rows: 50"
RULES = [
    ("kind: full", HASHED, "rows of single ids in the checkpoint, of ids hashed over 50 (1 functions) here"),
    (HASHED, "kind: full", "rows of ids hashed over 50 (1 functions) in the checkpoint, of single ids here"),
    (HASHED, MODULO, "rows of ids hashed over 50 (1 functions) in the checkpoint, of the remainder of ids by 50 here"),
    (HASHED, "kind: hashed, rows: 50, functions: 2", "hashed over 50 (2 functions) here"),
    (HASHED, "kind: hashed, rows: 60", "hashed over 60"),
    ("kind: frequency_capped, rows: 40, tail_rows: 10", HASHED, "ids hashed over 10 (1 functions) from id 40 on in"),
    ("kind: growing, rows: 300", "kind: growing, rows: 300", "table cat_0 grows here, and which id has which"),
    ("kind: growing, rows: 300", "kind: full", "table cat_0 grows in the checkpoint"),
]


@pytest.mark.parametrize(("there", "here", "said"), RULES)
def test_rows_of_another_rule_are_not_carried_over(there, here, said):
    (fault,) = faults(of_table("cat_0", here), of_table("cat_0", there))
    assert said in fault


def test_each_part_of_a_split_table_must_have_the_same_divisor():
    found = faults(of_table("cat_0", SPLIT), of_table("cat_0", SPLIT.replace("20", "10")))
    assert [fault.partition(" has ")[0] for fault in found] == ["table cat_0_quotient", "table cat_0_remainder"]
    assert "has rows of the quotient of ids by 30 in the checkpoint, of the quotient of ids by 15 here" in found[0]


@pytest.mark.parametrize(
    "kind", ["kind: full", HASHED, MODULO, SPLIT, "kind: frequency_capped, rows: 40, tail_rows: 10"]
)
@pytest.mark.parametrize("rows", [ROWS, (50, 40)])
def test_rows_of_the_same_rule_are(kind, rows):
    assert not faults(of_table("cat_0", kind), of_table("cat_0", kind), rows, rows)


ANOTHER = "rows that several values share, and column cat_1 another vocabulary"


@pytest.mark.parametrize(
    ("words", "said_then"),
    [([SHARED], ANOTHER), (of_table("cat_1", HASHED), ANOTHER), (of_table("cat_1", SPLIT), ANOTHER)],
)
def test_rows_that_values_share_are_taken_by_number_where_vocabularies_are_alike_and_not_otherwise(
    tmp_path, words, said_then
):
    paths = [tmp_path / name for name in ("before.tsv", "after.tsv")]
    for path, values in zip(paths, (range(10, 400), range(20, 410)), strict=True):
        write_rows(path, [range(10, 40), values], rows=900)
    given = [[*TSV, *words, f"data.paths={path}"] for path in paths]
    datasets = [build_dataset(load_config(None, one).data) for one in given]
    reader = checkpoint(given[0], datasets[0].schema)
    for number, dataset in enumerate(datasets):
        found, lookups = matching(given[number], dataset.schema, reader, dataset.train)
        said = [found.fault(table.name, table.rows) for table in lookups.tables]
        if number == 0:
            assert not any(said)
            table = lookups.tables[-1]
            row_R, how = found.rows(table.name, table.rows)
            assert (row_R.tolist(), how) == (list(range(table.rows)), "row number")
        else:
            assert said_then in said[-1]


def test_vocabularies_of_text_are_compared_and_no_row_goes_by_number_if_they_differ(tmp_path):
    values = {"label": [0, 1] * 3, "x": [0.0] * 6, "town": [f"t{i}" for i in range(6)]}
    write(tmp_path / "train.parquet", values)
    words = [
        *("data.kind=parquet", f"data.path={tmp_path}", "data.dense=x", "data.sparse=town", "data.rows=20"),
        f"data.vocabulary={{columns: [town], folder: {tmp_path}}}",
    ]
    before = build_dataset(load_config(None, words).data)
    known = checkpoint(words, before.schema, dict(before.train.vocabularies()))
    unknown = checkpoint(words, before.schema)
    assert matching(words, before.schema, known, before.train)[0].fault("town", 20) == ""
    assert "is not known to have the same" in matching(words, before.schema, unknown, before.train)[0].fault("town", 20)
    write(tmp_path / "train_2.parquet", values | {"town": ["a"] * 6})
    after = build_dataset(load_config(None, words).data)
    assert "another vocabulary of text" in matching(words, after.schema, known, after.train)[0].fault("town", 20)
    by_number = matching([*words, "warm_start.rows=ids"], after.schema, known, after.train)[0]
    assert by_number.fault("town", 20) == ""


def test_state_of_another_shape_is_a_fault_where_it_is_asked_for():
    schema = Schema.numbered(2, (40, 40))
    reader = checkpoint([], schema)
    record = SimpleNamespace(shape=(40, 128), torch_dtype=torch.float32)
    width = reader.tensors["tables.cat_0.weight"].shape[1]
    reader.tensors = {
        name: SimpleNamespace(shape=one.shape, torch_dtype=torch.float32) for name, one in reader.tensors.items()
    }
    reader.tensors["tables.cat_0.optimizer.sum"] = record
    tensors = [
        GlobalTensor.of("tables.cat_0.weight", torch.zeros(40, width)),
        GlobalTensor.of("tables.cat_0.optimizer.sum", torch.zeros(40)),
    ]
    for asked, said in (
        ("true", ["table cat_0: optimizer.sum has shape [40, 128] in the checkpoint, [40] here"]),
        ("false", []),
    ):
        config = load_config(None, ["warm_start.checkpoint=run", f"warm_start.optimizer={asked}"])
        transfer = _Transfer(config, tensors, reader, matching([], schema, reader)[0])
        assert [fault.partition(" (")[0] for fault in transfer.faults] == said


def test_rows_of_packed_csv_files_are_those_of_the_same_category(tmp_path):
    given, schemas = [], []
    for name, categories in (("before", [5, 7, 9]), ("after", [7, 8, 9, 10])):
        (tmp_path / f"{name}.csv").write_text("label,x,c\n" + "".join(f"1,0,{value}\n" for value in categories))
        folder = tmp_path / name
        run_pack(PackConfig(train=f"{folder}.csv", output=str(folder), dense=("x",), sparse=("c",)))
        given.append(["data.kind=packed", f"data.path={folder}"])
        schemas.append(build_dataset(load_config(None, given[-1]).data).schema)
    found, _ = matching(given[1], schemas[1], checkpoint(given[0], schemas[0]))
    assert found.fault("c", 6) == ""
    row_R, how = found.rows("c", 6)
    assert (row_R.tolist(), how) == ([0, 1, 3, NO_ROW, 4, NO_ROW], "value")  # missing, unseen, 7, 8, 9, 10
    found, _ = matching(["data.train_samples=100"], schemas[1], checkpoint(given[0], schemas[0]))
    assert "the data here do not say which value each row is" in found.fault("c", 6)


def test_a_start_says_that_carried_rows_keep_their_sums():
    words = [
        "optim.sparse={kind: rowwise_adagrad, lr: 0.1, initial_accumulator: 0.5}",
        "optim.dense={kind: adam, lr: 1}",
    ]
    assert _lines_of_sums(load_config(None, words)) == []
    (line,) = _lines_of_sums(load_config(None, [*words, "warm_start.checkpoint=run", "warm_start.optimizer=true"]))
    assert line.startswith("optim.sparse.initial_accumulator 0.5 is for what begins anew")
