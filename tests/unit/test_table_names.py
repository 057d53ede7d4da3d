"""Any name has a module and a place in a checkpoint, and can be told from them."""

import pytest
from pydantic import TypeAdapter, ValidationError
from torch import nn

from dlrm.checkpoint.manifest import Name
from dlrm.checkpoint.tensors import full_name, names_by_table, weight_name
from dlrm.schema import LONGEST_NAME, fault_in_name
from dlrm.table_names import module_name, state_name, table_name, table_of_weight
from tests.unit.column_names import COLUMN_NAMES

ORDINARY = [
    "cat_0",
    "C1",
    "user id",
    "größe",
    "a/b",
    "[bold]",
    "100%",
    "%type",
    "<script>",
    "x" * 400,
    "-",
    "a@b",
    "{}",
]


def test_every_name_is_told_from_its_module_and_from_its_place_in_a_checkpoint():
    for naming in (module_name, state_name):
        given = [naming(name) for name in COLUMN_NAMES]
        assert len(set(given)) == len(COLUMN_NAMES)
        assert [table_name(name) for name in given] == COLUMN_NAMES


def test_torch_takes_the_modules_of_all_names_at_once():
    modules = nn.ModuleDict({module_name(name): nn.Embedding(1, 1) for name in COLUMN_NAMES})
    assert [table_of_weight(f"embedding_bags.{name}") for name, _ in modules.named_parameters()] == COLUMN_NAMES


def test_ordinary_names_are_what_they_were():
    for name in ORDINARY:
        assert module_name(name) == state_name(name) == name
    assert (module_name("type"), state_name("type")) == ("column%type", "type")
    assert (module_name("user.id"), state_name("user.id")) == ("column%user%2Eid", "user.id")
    assert state_name("two\nlines") == module_name("two\nlines") == "column%two%0Alines"


def test_checkpoints_take_all_names_and_know_what_belongs_to_which_table():
    tensors = [
        full_name(state_name(name), part)
        for name in [*COLUMN_NAMES, "\x1b" * LONGEST_NAME, "😀" * LONGEST_NAME]
        for part in ("weight", "average", "optimizer.sum")
    ]
    for tensor in tensors:
        TypeAdapter(Name).validate_python(tensor)
    found = names_by_table(["average.steps", *tensors])
    assert {table_name(table) for table in found} >= set(COLUMN_NAMES)
    assert all(parts == ["weight", "average", "optimizer.sum"] for parts in found.values())
    assert len(found) == len(tensors) / 3


def test_names_that_no_file_can_hold_are_no_names():
    assert not any(fault_in_name(name) for name in COLUMN_NAMES)
    assert "4,096" in fault_in_name("x" * (LONGEST_NAME + 1))
    assert "Unicode" in fault_in_name("\udce4")


def test_a_weight_is_called_by_its_table_in_checkpoints_too():
    assert weight_name(state_name("user.id")) == "tables.user.id.weight"
    with pytest.raises(ValidationError):
        TypeAdapter(Name).validate_python(weight_name("two\nlines"))
