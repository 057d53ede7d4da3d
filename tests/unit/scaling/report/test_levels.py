import pytest

from dlrm.scaling.report.levels import SINGLE, STRONG, WEAK, fixed_factors, levels_of, short_names, telling_factors
from dlrm.scaling.report.points import Point
from dlrm.scaling.table import MEASURED, PREDICTED, Spread


def point(ranks, batch, samples_per_s=None, *, hosts=1, experiment="e", **factors):
    found = Point(
        experiment, f"{ranks}", hosts, ranks, batch, {name.replace("__", "."): v for name, v in factors.items()}
    )
    if samples_per_s is not None:
        found.throughput[MEASURED] = Spread(samples_per_s, samples_per_s, samples_per_s)
    return found


def test_weak_scaling_is_one_line_whose_efficiency_is_throughput_a_rank():
    points = [point(8, 800, 640.0, train__batch="800"), point(2, 200, 200.0, train__batch="200")]
    (level,) = levels_of(points)
    assert (level.kind, level.name) == (WEAK, "all points")
    assert [found.ranks for found in level.points] == [2, 8]
    assert level.efficiency(MEASURED) == pytest.approx({2: 1.0, 8: 0.8})
    assert level.efficiency(PREDICTED) == {}


def test_strong_scaling_is_one_line_a_batch_whose_efficiency_is_speed_up_by_ranks():
    points = [point(ranks, batch, batch * ranks**0.5) for batch in (64, 512) for ranks in (1, 4, 16)]
    levels = levels_of(points)
    assert [level.kind for level in levels] == [STRONG, STRONG]
    assert [level.name for level in levels] == ["64 samples a step", "512 samples a step"]
    for level in levels:
        speed_up = {ranks: ranks**0.5 for ranks in (1, 4, 16)}
        assert level.efficiency(MEASURED) == pytest.approx({ranks: value / ranks for ranks, value in speed_up.items()})


def test_levels_are_told_apart_by_the_factors_that_say_more_than_ranks_hosts_and_batch():
    points = [
        point(ranks, 10 * ranks, 1.0, hosts=ranks // 2, job__ranks=f"{ranks}", job__hosts=f"{ranks // 2}",
              train__batch=f"{10 * ranks}.0", sharding__kind=kind, model__dim="16")
        for kind in ("row_wise", "table_wise")
        for ranks in (2, 4)
    ]  # fmt: skip
    assert telling_factors(points) == ["sharding.kind"]
    assert fixed_factors(points) == {"model.dim": "16"}
    assert [level.name for level in levels_of(points)] == ["sharding row_wise", "sharding table_wise"]


def test_experiments_are_lines_of_their_own_each_of_its_kind():
    weak = [point(ranks, 10 * ranks, experiment="w") for ranks in (1, 2)]
    strong = [point(ranks, 10, experiment="s") for ranks in (1, 2)]
    assert [(level.name, level.kind) for level in levels_of([*weak, *strong])] == [("w", WEAK), ("s", STRONG)]


def test_as_many_ranks_on_fewer_hosts_are_another_line():
    points = [point(ranks, 10 * ranks, hosts=hosts) for ranks, hosts in ((4, 1), (8, 2), (4, 2), (8, 4))]
    assert [level.name for level in levels_of(points)] == ["4 ranks a host", "2 ranks a host"]


def test_points_of_one_number_of_ranks_do_not_scale():
    (level,) = levels_of([point(4, 40, 7.0)])
    assert level.kind == SINGLE
    assert level.efficiency(MEASURED) == {4: 1.0}
    assert levels_of([]) == []


def test_names_of_factors_are_as_short_as_they_may_be():
    names = ["optim.dense.lr", "optim.sparse.lr", "interaction.kind", "train.steps"]
    assert short_names(names) == {
        "optim.dense.lr": "dense.lr",
        "optim.sparse.lr": "sparse.lr",
        "interaction.kind": "interaction",
        "train.steps": "steps",
    }
