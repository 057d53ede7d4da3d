import pytest

from dlrm.words import escaped, printable
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
