import pytest

from dlrm.format import did_you_mean, escaped, nearest, printable
from tests.unit.column_names import COLUMN_NAMES


def test_what_can_be_printed_stays_as_it_is():
    for text in ("", "größe 価格", "<b> [bold] $x^$ \\ '\"", "a" * 5000):
        assert printable(text) == text


def test_what_a_terminal_would_obey_is_spelled_out():
    assert printable("\x1b[31mred\x07") == r"\x1b[31mred\x07"
    assert printable("two\nlines\r\t") == r"two\nlines\r\t"
    assert printable("two\nlines\r", keep="\n") == "two\nlines\\r"
    assert printable("größe\x9b\u202e\u2028\udce4\U000e0001") == r"größe\x9b\u202e\u2028\udce4\U000e0001"
    assert all(printable(name).isprintable() for name in COLUMN_NAMES)


@pytest.mark.parametrize("value", ["x" * 101, "\x1b" * 50, 10**200])
def test_long_values_are_cut(value):
    assert len(escaped(value)) == 100
    assert escaped(value).endswith("...")


def test_the_nearest_name_is_that_spelled_most_alike_in_any_case():
    names = ["cat_0", "cat_1", "User_ID"]
    assert nearest("cat_00", names) == "cat_0"
    assert nearest("user-id", names) == "User_ID"
    assert nearest("x", names) == ""
    assert nearest("ct_1", names, cutoff=0.9) == ""
    assert (did_you_mean("cat1", names), did_you_mean("x", names)) == ("did you mean cat_1?", "")
