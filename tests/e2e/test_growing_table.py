"""The claims of benchmarks/growing_table.py on the state, in small: real launchers, SIGKILL, other numbers of ranks."""

import pytest

from benchmarks.growing_table import distinct_ids, measured, parser


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_a_killed_run_goes_on_as_if_nothing_had_happened_and_other_ranks_know_the_same_ids(tmp_path):
    sizes = ["--killed=30000", "--ids=100000", "--rows=4000", "--batch=512", "--test=2000", "--samples=30000"]
    arguments = parser().parse_args(["--parts=kills", *sizes])
    assert distinct_ids(arguments) > 4 * arguments.rows
    found = dict(measured(arguments, tmp_path))
    differing = {name: tensors for name, tensors in found.items() if name.endswith("that differ")}
    assert len(differing) == 2 + 2 * 3
    assert {name: tensors for name, tensors in differing.items() if tensors} == {}
    assert found["kills: one, two, four ranks: largest difference of a weight"] < 1e-5
    assert found["kills: ids with a row"] > 0.9 * arguments.rows
