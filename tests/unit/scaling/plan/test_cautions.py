"""What a person is told before paying for a plan, each by a case that is made up for it."""

from dataclasses import replace
from types import SimpleNamespace

import pytest

from dlrm.data.id_statistics.base import UniformIds
from dlrm.hardware.catalogue import known_device
from dlrm.memory import Bytes, MemoryAccount
from dlrm.scaling.cost.step import StepCost
from dlrm.scaling.plan.cautions import cautions
from dlrm.scaling.plan.epoch import epoch
from dlrm.sharding.report import TablePlacement
from tests.unit.scaling.cost.machines import lookup, workload

GIB = 1 << 30
ROOM = SimpleNamespace(device_bytes=10 * GIB, host_bytes=100 * GIB)
STAGES = {"bottom_mlp": 0.3, "top_mlp": 0.3, "lookup": 0.2, "output distribution": 0.2}


def cost_of(stages=STAGES, by_rank=(1.0, 1.0)):
    return StepCost(sum(stages.values()), dict(stages), tuple(by_rank), {}, {})


def forecast(**changed):
    """Of two ranks in balance."""
    plain = {
        "plan": [TablePlacement("cat_0", 100, 8, "row_wise", "fused", (1.0, 1.0))],
        "accounts": [MemoryAccount({"tables": Bytes(0, 5 * GIB)})] * 2,
        "world": SimpleNamespace(size=2, device=SimpleNamespace(type="cuda")),
        "cost": cost_of(),
        "workload": workload(lookups=((lookup(),), (lookup(),))),
    }
    return SimpleNamespace(**{**plain, **changed})


def said(**changed):
    return list(cautions(forecast(**changed), ROOM))


def test_a_plan_in_balance_has_none():
    assert said() == []
    assert said(cost=None, workload=None) == []


def test_a_table_larger_than_a_device():
    large = TablePlacement("cat_0", 100, 8, "row_wise", "fused", (6.0, 6.0))
    (line,) = said(plan=[large])
    assert line.startswith("table cat_0 takes 12")
    assert "more than a device has (10" in line
    assert line.endswith("it fits only because row_wise cuts it")
    # Whole on each rank it is half of that.
    assert said(plan=[replace(large, sharding="data_parallel")]) == []


def test_memory_out_of_balance():
    accounts = [MemoryAccount({"tables": Bytes(0, size * GIB)}) for size in (2, 6)]
    (line,) = said(accounts=accounts)
    assert line.startswith("memory is out of balance: rank 1 takes 1.50 times the mean")
    on_cpu = [MemoryAccount({"tables": Bytes(size * GIB, 0)}) for size in (6, 2)]
    (line,) = said(accounts=on_cpu)
    assert "rank 0 takes 1.50 times" in line


def test_work_out_of_balance_names_what_is_looked_up_most():
    mine = (lookup(table="cat_1", ids=10.0, columns=8), lookup(table="cat_2", ids=5.0, columns=64))
    (line,) = said(cost=cost_of(by_rank=(1.0, 3.0)), workload=workload(lookups=((lookup(),), mine)))
    assert line.startswith("work is out of balance: rank 1 works 1.50 times as long as the mean")
    assert "most of what it looks up is cat_2 (table_wise, 5 rows a step)" in line


@pytest.mark.parametrize(("out", "back", "bound"), [(0.2, 0.09, False), (0.4, 0.0, True), (0.2, 0.2, True)])
def test_a_step_that_waits_for_embeddings(out, back, bound):
    rest = (1.0 - out - back) / 2
    stages = {"bottom_mlp": rest, "top_mlp": rest, "output distribution": out, "output distribution backward": back}
    lines = said(cost=cost_of(stages))
    assert [line.startswith("the step is bound by the exchange of pooled embeddings: 40% of") for line in lines] == (
        [True] if bound else []
    )


def test_a_range_of_rows_with_hot_ids():
    def of(counts, **kind):
        return workload(lookups=tuple((lookup(**kind, ids=count),) for count in counts))

    (line,) = said(workload=of((90.0, 10.0), sharding="row_wise"))
    assert line.startswith(
        "hot ids: one range of rows gets more than 1.5 times its share of lookups in cat_0 (1.8 times)"
    )
    assert "sharding.tables.cat_0.types" in line
    assert said(workload=of((60.0, 40.0), sharding="row_wise")) == []
    assert said(workload=of((90.0, 10.0), sharding="column_wise")) == []
    assert UniformIds(100).row_range_shares(100, 2) == [0.5, 0.5]  # so none of uniform ids


# What an epoch costs.


def test_an_epoch_by_hand():
    found = epoch(36_000_000, 10_000.0, 16, known_device("NVIDIA H100 80GB HBM3"), None)
    device = known_device("NVIDIA H100 80GB HBM3")
    assert (found.samples, found.hours, found.device_hours) == (36_000_000, 1.0, 16.0)
    assert found.usd == pytest.approx(16 * device.price_usd_hour)
    assert found.usd_per_device_hour == device.price_usd_hour
    assert device.price_date in found.price_source
    assert found.kwh == pytest.approx(16 * (device.server_power_w or device.power_w) / 1000)


def test_a_price_that_is_given_goes_before_the_catalogue_s_and_may_be_all_there_is():
    h100 = known_device("NVIDIA H100 80GB HBM3")
    for device in (h100, None):
        found = epoch(7_200_000, 1_000.0, 4, device, 2.5)
        assert (found.hours, found.usd, found.price_source) == (2.0, 2 * 4 * 2.5, "as given")
    assert epoch(7_200_000, 1_000.0, 4, None, None).kwh is None


@pytest.mark.parametrize("name", ["GB300", None])
def test_without_a_price_there_is_no_sum(name):
    found = epoch(1000, 10.0, 1, known_device(name) if name else None, None)
    assert (found.usd, found.usd_per_device_hour, found.price_source) == (None, None, "")
