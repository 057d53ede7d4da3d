import pytest
import yaml

from dlrm.config.dialect import Dumper, Loader


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-3", 0.001),
        ("1E6", 1e6),
        ("+2e+3", 2000.0),
        ("1.5e3", 1500.0),
        (".5", 0.5),
        ("-1.", -1.0),
        ("0.1", 0.1),
        ("-.inf", float("-inf")),
        ("12", 12),
        ("-3", -3),
        ("+3", 3),
        ("0", 0),
        ("1_000_000", 1_000_000),
        ("0x1F", 31),
        ("true", True),
        ("False", False),
        ("null", None),
        ("~", None),
    ],
)
def test_numbers_and_booleans_are_read_as_people_mean_them(text, value):
    read = yaml.load(text, Loader=Loader)
    assert read == value
    assert isinstance(read, type(value))


@pytest.mark.parametrize(
    "text",
    [
        "no",
        "yes",
        "on",
        "off",
        "Y",
        "n",
        "1:30",
        "12:30:45",
        "012",
        "-007",
        "0b101",
        "0o17",
        "2024-01-01",
        "1e",
        "e5",
        "1.2.3",
    ],
)
def test_the_traps_of_yaml_1_1_are_text(text):
    assert yaml.load(text, Loader=Loader) == text


def test_not_a_number_is_read_as_such():
    value = yaml.load(".nan", Loader=Loader)
    assert value != value


@pytest.mark.parametrize("text", ["1.10", "1e3", "1_000", "0x10", "+5", "0.10"])
def test_a_number_knows_how_it_was_written(text):
    assert str(yaml.load(text, Loader=Loader)) == text


@pytest.mark.parametrize(
    "text",
    [
        "1e3",
        "1.10",
        "no",
        "on",
        "1:30",
        "007",
        "true",
        "null",
        "~",
        "",
        "2024-01-01",
        ".inf",
        "0x10",
        "a: b",
        "a #b",
        "é",
    ],
)
def test_text_that_looks_like_something_else_survives_being_written_and_read(text):
    written = yaml.dump({text: [text]}, Dumper=Dumper, allow_unicode=True)
    assert yaml.load(written, Loader=Loader) == {text: [text]}
    assert yaml.safe_load(written) == {text: [text]}  # readers of YAML 1.1 get the same


@pytest.mark.parametrize("value", [1e-5, 1e22, 0.1, 1.0, -3.5e-7, 5e-324, 10**18, -3, True, False, None])
def test_values_survive_being_written_and_read(value):
    read = yaml.load(yaml.dump(value, Dumper=Dumper), Loader=Loader)
    assert read == value
    assert isinstance(read, type(value))


def test_python_objects_are_refused():
    with pytest.raises(yaml.YAMLError, match="could not determine a constructor"):
        yaml.load("!!python/object/apply:os.system ['true']", Loader=Loader)
