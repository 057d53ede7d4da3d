import pytest

from dlrm.config.data.packed import PartSplit
from dlrm.data.packed.split import Part
from dlrm.errors import ConfigError
from dlrm.preprocess.counted import check_split

ABOUT = [Part("day_0", 900), Part("day_1", 1100)]


@pytest.mark.parametrize(
    ("split", "said"),
    [
        ({"train": ["day_0"], "test": ["day_0[0.5:]"]}, "split: train and test share rows of day_0"),
        ({"train": ["day_0", "day_1"], "test": ["day_1"]}, "split: test and train share rows of day_1"),
        ({"train": ["day_0", "day_0"]}, "split: train uses twice the rows of day_0"),
        ({"train": ["day_0[:500]"], "test": ["day_0[400:600]"]}, "split: train and test share rows 400 .. 499 of day_0"),
        (
            {"train": ["day_0[0.9:0.1]"]},
            "split.train: 'day_0[0.9:0.1]' asks for rows of day_0, which it cannot have",
        ),
        (
            {"train": ["day_0[500:100]"]},
            "split.train: 'day_0[500:100]' asks for rows 500 .. 100 of day_0, which it cannot have",
        ),
    ],
)  # fmt: skip
def test_a_split_that_cannot_fit_is_said_without_numbers_that_nobody_has_counted(split, said):
    with pytest.raises(ConfigError) as caught:
        check_split(PartSplit(**split), ABOUT)
    assert str(caught.value) == said


@pytest.mark.parametrize("entry", ["day_0[:0.9]", "day_0[:1500]", "day_0[10:]"])
def test_a_split_that_some_number_of_rows_would_fit_is_let_pass(entry):
    check_split(PartSplit(train=[entry]), ABOUT)
