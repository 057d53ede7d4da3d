"""Options of `benchmark` that do not go together."""

import pytest

from dlrm.config.benchmark import BenchmarkConfig
from dlrm.config.load import load_options
from dlrm.errors import ConfigError


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["as_ranks=8"], "set predict to true"),
        (["as_device=H100"], "set predict to true"),
        (["predict=true", "as_ranks=8", "without=data"], "leave without out"),
        (["without=mlps", "train.accumulation_steps=2"], "set it to 1"),
    ],
)
def test_they_are_refused(options, said):
    with pytest.raises(ConfigError, match=said):
        load_options(BenchmarkConfig, None, options)


@pytest.mark.parametrize(
    "options", [["predict=true", "as_ranks=8", "as_device=H100"], ["without=data", "train.accumulation_steps=2"], []]
)
def test_others_are_not(options):
    load_options(BenchmarkConfig, None, options)
