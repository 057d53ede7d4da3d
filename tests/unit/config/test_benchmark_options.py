"""Options of `benchmark` that do not go together."""

import pytest

from dlrm.config.benchmark import BenchmarkConfig
from dlrm.config.load import load_options
from dlrm.errors import ConfigError


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["without=mlps", "train.accumulation_steps=2"], "set it to 1"),
    ],
)
def test_they_are_refused(options, said):
    with pytest.raises(ConfigError, match=said):
        load_options(BenchmarkConfig, None, options)


@pytest.mark.parametrize("options", [["without=data", "train.accumulation_steps=2"], []])
def test_others_are_not(options):
    load_options(BenchmarkConfig, None, options)
