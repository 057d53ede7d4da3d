import errno
import os
from pathlib import Path

import pytest

from dlrm.config import load_config
from dlrm.config.layers import command_line_layer, file_layer
from dlrm.errors import ConfigError
from tests.unit.config.mistakes import from_text, mistakes


def test_every_value_of_a_file_knows_its_line(tmp_path):
    path = tmp_path / "a.yaml"
    path.write_text("# a comment\ntrain:\n  epochs: 1\n\n  shuffle: false\noptim: {dense: {lr: 1}}\n")
    lines = {key: int(origin.rpartition(":")[2]) for key, origin in file_layer(path).origins.items()}
    assert lines == {
        "train": 2,
        "train.epochs": 3,
        "train.shuffle": 5,
        "optim": 6,
        "optim.dense": 6,
        "optim.dense.lr": 6,
    }


def test_a_key_given_twice_is_a_mistake_beside_all_others(tmp_path):
    assert mistakes(tmp_path, "train:\n  epochs: 1\n  epochs: 2\n  epoch: 3\n") == [
        "a.yaml:3: train.epochs: is given twice, first at a.yaml:2",
        "a.yaml:4: train.epoch: unknown option; did you mean train.epochs?",
    ]
    assert mistakes(tmp_path, "train: {epochs: 1}\nrun: {seed: 1}\ntrain: {shuffle: true}\n") == [
        "a.yaml:3: train: is given twice, first at a.yaml:1"
    ]
    assert mistakes(tmp_path, None, ["--train", "{epochs: 1, epochs: 2}"]) == [
        "command line: train.epochs: is given twice, first at command line"
    ]


def test_of_a_flag_given_twice_the_later_counts():
    assert load_config(None, ["--train.epochs", "3", "train.epochs=4"]).train.epochs == 4
    config = load_config(None, ["--train.epochs", "3", "--train", "{shuffle: false}", "--train", "{max_steps: 5}"])
    assert (config.train.epochs, config.train.shuffle, config.train.max_steps) == (3, False, 5)


@pytest.mark.parametrize("text", ["- 1\n- 2\n", "hello", "3", "null", "[a, b]"])
def test_a_file_that_is_no_mapping_says_what_is_expected(tmp_path, text):
    assert mistakes(tmp_path, text) == ["a.yaml:1: holds no options; expected a mapping such as `train: {epochs: 1}`"]


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("a: [1,\nb: }", 2),
        ("train:\n\tepochs: 1\n", 2),
        ("train: {epochs: 1}\n---\ntrain: {epochs: 2}\n", 2),
        ("train: !!python/object/apply:os.system ['true']\n", 1),
        ("train: *nowhere\n", 1),
        ("train: {epochs: 'x}\n", 2),
        ("? [a]\n: 3\n", 1),
    ],
)
def test_what_is_not_yaml_is_one_line_that_names_the_line(tmp_path, text, line):
    (said,) = mistakes(tmp_path, text)
    assert said.startswith(f"a.yaml:{line}: is not valid YAML: ")


@pytest.mark.parametrize(
    "text",
    ["a: " + "[" * 3000 + "]" * 3000, "{a: " * 3000 + "}" * 3000, "train: &x {epochs: *x}\n", "&x\ntrain: *x\n"],
    ids=["lists", "mappings", "a value that contains itself", "a file that contains itself"],
)
def test_endless_nesting_is_one_line(tmp_path, text):
    assert mistakes(tmp_path, text) == ["a.yaml: is nested too deeply, or an alias in it contains itself"]


def test_anchors_and_merge_keys_work_and_mistakes_in_them_have_an_origin(tmp_path):
    text = (
        "sharding:\n  tables:\n    cat_0: &x {types: [table_wise]}\n    cat_1: *x\n"
        "    cat_2: {<<: *x, kernels: [fused]}\n    cat_3: {<<: *x, types: [row_wise]}\n"
    )
    tables = from_text(tmp_path, text).sharding.tables
    assert [tables[f"cat_{i}"].types for i in range(4)] == [("table_wise",)] * 3 + [("row_wise",)]
    assert tables["cat_2"].kernels == ("fused",)
    said = mistakes(tmp_path, text.replace("table_wise", "table_wse"))
    assert [line.split(":")[1] for line in said] == ["3", "3", "5"]  # where the value is written, or its section


def test_a_table_named_by_a_number_is_the_same_in_a_file_and_on_the_command_line(tmp_path):
    text = "sharding: {tables: {1: {types: [row_wise]}, 1.50: {types: [row_wise]}}}"
    tables = from_text(tmp_path, text, ["--sharding.tables.1.kernels", "fused"]).sharding.tables
    assert {name: (table.types, table.kernels) for name, table in tables.items()} == {
        "1": (("row_wise",), ("fused",)),
        "1.50": (("row_wise",), None),
    }


def test_a_missing_file_a_folder_and_what_is_no_text_are_one_line(tmp_path):
    (tmp_path / "latin1.yaml").write_bytes("run: {name: r\xe9}".encode("latin1"))
    (tmp_path / "utf16.yaml").write_bytes("run: {name: a}".encode("utf-16"))
    (tmp_path / "nul.yaml").write_bytes(b"run: {name: a}\n\0")
    for name, what in (
        ("absent.yaml", "No such file or directory"),
        ("", "Is a directory"),
        ("latin1.yaml", "is not UTF-8 text"),
        ("utf16.yaml", "is not UTF-8 text"),
        ("nul.yaml", "is not valid YAML: unacceptable character"),
    ):
        with pytest.raises(ConfigError) as caught:
            load_config(tmp_path / name)
        assert str(caught.value).startswith(f"{tmp_path / name}: {what}")
        assert "\n" not in str(caught.value)


def test_a_file_that_may_not_be_read_is_one_line(tmp_path, monkeypatch):
    def refuse(*args, **kwargs):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr(Path, "read_text", refuse)
    with pytest.raises(ConfigError, match=r"^a\.yaml: Permission denied; give --config"):
        load_config("a.yaml")


def test_a_byte_order_mark_and_windows_line_ends_are_read(tmp_path):
    (tmp_path / "a.yaml").write_bytes(b"\xef\xbb\xbftrain:\r\n  epochs: 2\r\n")
    assert load_config(tmp_path / "a.yaml").train.epochs == 2


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--train.epochs"], "train.epochs: has no value; write --section.key value"),
        (["--train.epochs", "--train.shuffle=true"], "train.epochs: has no value; write --section.key value"),
        (["epochs"], "'epochs' is neither --section.key value nor section.key=value"),
        ([""], "'' is neither --section.key value nor section.key=value"),
        (["--=3"], "'' is no name of an option; write --section.key value or section.key=value"),
        (
            ["--train..epochs", "3"],
            "'train..epochs' is no name of an option; write --section.key value or section.key=value",
        ),
        (
            ["-train.epochs=3"],
            "'-train.epochs' is no name of an option; write --section.key value or section.key=value",
        ),
    ],
)
def test_words_that_are_no_options_are_mistakes(tmp_path, words, said):
    assert mistakes(tmp_path, None, words) == [f"command line: {said}"]


def test_a_negative_number_is_a_value():
    for words in (["--a.b", "-3"], ["--a.b=-3"], ["a.b=-3"]):
        assert command_line_layer(words).values == {"a": {"b": -3}}


@pytest.mark.parametrize("text", ["*x", "!x", "@x", "%x", "`x", "a: b: c", "[x", "a #b", "s3://a/b", "a:b"])
def test_text_that_is_no_yaml_is_taken_as_it_is(text):
    assert command_line_layer([f"--a={text}"]).values == {"a": text}
