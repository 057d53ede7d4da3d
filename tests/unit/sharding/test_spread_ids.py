"""The planner is told how ids are spread, by a file that inspect has written."""

import numpy as np
import pytest
from torchrec.distributed.planner import ParameterConstraints
from torchrec.distributed.types import CacheParams

from dlrm.data.id_statistics.base import UniformIds
from dlrm.data.id_statistics.file import write_statistics
from dlrm.data.id_statistics.measured import MeasuredIds, measure_ids
from dlrm.errors import DlrmError
from dlrm.schema import Schema
from dlrm.sharding.planner import make_plan
from dlrm.sharding.spread_ids import CachedIds, add_statistics
from tests.unit.sharding.plans import config_of, plan_of, world_of


def test_ids_of_a_sample_are_their_mean_and_caches_know_what_they_hold():
    constraints = {
        "cat_0": ParameterConstraints(cache_params=CacheParams(load_factor=0.2)),
        "cat_1": ParameterConstraints(),
    }
    known = {"cat_0": UniformIds(1000, 2.5), "cat_1": UniformIds(10, 0.0)}
    add_statistics(constraints, known, Schema.numbered(0, (1000, 10)).by_table, samples=400)
    cached, seldom = constraints["cat_0"], constraints["cat_1"]
    assert cached.pooling_factors == [2.5]
    assert 0 < seldom.pooling_factors[0] < 0.01
    assert seldom.cache_params is None
    stats = cached.cache_params.stats
    assert stats.expected_lookups == pytest.approx(1000 * (1 - (1 - 1 / 1000) ** 1000))
    assert [stats.expected_miss_rate(share) for share in (0, 0.25, 1, 2)] == [1.0, 0.75, 0.0, 0.0]
    assert stats.cacheability == pytest.approx(0.5)


def test_hot_ids_are_easier_to_cache_than_uniform_ones():
    drawn = np.random.default_rng(0)
    skewed = np.minimum(drawn.zipf(1.3, 20_000) - 1, 999)
    measured = measure_ids("cat_0", 1000, skewed, np.arange(20_000))
    assert CachedIds(measured, 1.0).cacheability < 0.2
    assert CachedIds(measured, 1.0).expected_miss_rate(0.1) < 0.4


def test_a_plan_is_made_with_the_statistics_of_a_file(tmp_path, monkeypatch):
    ids = np.arange(4000) % 100
    path = tmp_path / "ids.json"
    write_statistics([measure_ids("cat_0", 100, ids, np.arange(4000) // 4)], str(path))
    seen = {}

    def note(constraints, known, features, *, samples):
        add_statistics(constraints, known, features, samples=samples)
        seen.update({name: constraint.pooling_factors for name, constraint in constraints.items()}, samples=samples)

    monkeypatch.setattr("dlrm.sharding.planner.add_statistics", note)
    assert make_plan  # what plan_of calls
    plan_of(config_of(f"sharding.id_statistics={path}"), world_of(4), rows=(100, 50), batch=8)
    assert seen == {"cat_0": [4.0], "cat_1": [1.0], "samples": 32}


def test_tables_whose_rows_are_not_the_ids_of_one_feature_are_weighed_by_the_ids_of_samples_as_well(
    tmp_path, monkeypatch
):
    path, seen = tmp_path / "ids.json", {}
    measured = {"cat_0": (100, 5), "cat_1": (80, 4), "cat_2": (100, 2), "cat_3": (50, 10), "cat_4": (90, 3)}
    found = [
        measure_ids(name, rows, np.arange(4200) % rows, np.arange(4200) // ids)
        for name, (rows, ids) in measured.items()
    ]
    write_statistics(found, str(path))

    def note(constraints, known, features, *, samples):
        add_statistics(constraints, known, features, samples=samples)
        seen.update({name: constraint.pooling_factors for name, constraint in constraints.items()})
        spread.update(known)

    spread = {}
    monkeypatch.setattr("dlrm.sharding.planner.add_statistics", note)
    options = [
        "model.shared_tables={films: [cat_1, cat_2]}",
        "model.tables.cat_0.embedding={kind: hashed, rows: 20, hash: mixed, functions: 2}",
        "model.tables.cat_3.embedding={kind: quotient_remainder, ids_per_row: 5, operation: add, min_rows: 1}",
        "model.tables.cat_4.embedding={kind: frequency_capped, rows: 20, tail_rows: 10}",
    ]
    rows, hotness = [rows for rows, _ in measured.values()], (20,) * 5
    config = config_of(f"sharding.id_statistics={path}", *options)
    plan_of(config, world_of(4), rows=tuple(rows), hotness=hotness, batch=8)
    assert seen == {
        "cat_0": [10.0],  # two rows an id
        "films": [4.0, 2.0],
        "cat_3_quotient": [10.0],
        "cat_3_remainder": [10.0],
        "cat_4": [3.0],
    }
    assert spread["cat_1"] == UniformIds(100, 4.0)  # the table has more rows than ids of it were counted
    assert isinstance(spread["cat_2"], MeasuredIds)


def test_a_file_that_is_not_there_is_one_line(tmp_path):
    with pytest.raises(DlrmError, match="inspect --id_statistics"):
        plan_of(config_of(f"sharding.id_statistics={tmp_path / 'none.json'}"), world_of(4), rows=(100,), batch=8)
