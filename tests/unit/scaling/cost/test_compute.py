"""What a rank's own work takes, by hand."""

from dataclasses import replace

import pytest
import torch

from dlrm.scaling.cost.compute import TABLE_KERNELS, Seconds, around, dense, lookups, product_s
from dlrm.scaling.operations import Operation
from dlrm.scaling.stage_names import COPY, INPUT_DIST, LOOKUP, OPTIMIZER, OTHER, UPDATE
from dlrm.scaling.work import Product
from tests.unit.scaling.cost.machines import lookup, rates, workload


def test_a_large_product_takes_its_arithmetic_and_a_flat_one_its_bytes():
    found = rates(flops_per_s={"float32": 1e12}, stream_bytes_per_s=1e11, cached_bytes_per_s=1e13, product_s=1e-6)
    square = Product(4096, 4096, 4096)
    assert product_s(square, found) == pytest.approx(1e-6 + 2 * 4096**3 / 1e12)
    flat = Product(1 << 20, 1, 8)
    assert product_s(flat, found) == pytest.approx(1e-6 + 4 * ((1 << 20) * 9 + 8) / 1e11)
    assert product_s(flat, replace(found, cache_bytes=1e9)) == pytest.approx(1e-6 + flat.flops / 1e12)
    assert product_s(Product(1, 1, 1), found) == pytest.approx(1e-6, rel=1e-3)


def test_narrow_products_take_longer_by_each_of_their_sides():
    found = rates(flops_per_s={"float32": 1e12}, half_size=64)
    assert product_s(Product(64, 64, 64), found) == pytest.approx(8 * 2 * 64**3 / 1e12)
    assert product_s(Product(6400, 64, 6400), found) == pytest.approx(1.01 * 2 * 1.01 * 2 * 6400**2 * 64 / 1e12)
    # A batch of products with vectors is as wide as the batch.
    assert product_s(Product(1, 64, 1, batch=64), found) == pytest.approx(2 * 2 * 65 * 2 * 64 * 64 / 1e12)


def test_types_have_rates_of_their_own_and_others_that_of_float32():
    found = rates(flops_per_s={"float32": 1e12, "bfloat16": 8e12})
    times = [product_s(Product(512, 512, 512, dtype=dtype), found) for dtype in
             (torch.float32, torch.bfloat16, torch.float64)]  # fmt: skip
    assert times == pytest.approx([2 * 512**3 / 1e12, 2 * 512**3 / 8e12, 2 * 512**3 / 1e12])


def test_operators_take_a_moment_each_and_their_bytes_by_where_they_are():
    found = rates(operation_s=1e-6, stream_bytes_per_s=1e9, cached_bytes_per_s=1e10, cache_bytes=1000.0)
    work = [Operation("a", None, 500), Operation("a", None, 5000), Operation("b", Product(1, 1, 1), 0)]
    seconds = dense(work, found)
    assert seconds.by["a", "operations"] == pytest.approx(2e-6)
    assert seconds.by["a", "elementwise"] == pytest.approx(500 / 1e10 + 5000 / 1e9)
    assert seconds.by["b", "operations"] == pytest.approx(1e-6)
    assert "elementwise" not in {term for stage, term in seconds.by if stage == "b"}


def of(one, **changed):
    return lookups([one], rates(**changed))


def test_a_lookup_is_a_table_bags_ids_and_bytes():
    one = lookup(bags=10.0, ids=30.0, distinct=30.0, columns=8, state=4.0)
    costs = (1e-3, 1e-4, 1e-5, 1e-6)
    seconds = of(one, lookup_s=costs, update_s=costs)
    rows, pooled = 30 * 8 * 4, 10 * 8 * 4
    fixed = 1e-3 + 10 * 1e-4 + 30 * 1e-5
    assert seconds.by[LOOKUP, "lookup"] == pytest.approx(fixed + (rows + pooled) * 1e-6)
    assert seconds.by[UPDATE, "update"] == pytest.approx(fixed + (rows + 30 * 4 + pooled) * 1e-6)  # with the state
    assert seconds.total == pytest.approx(sum(seconds.terms().values()))


@pytest.mark.parametrize(
    ("distinct", "cache_bytes", "rows_read"),
    [
        (30.0, 1e9, 30),  # all different: each is read, however large the cache
        (30.0, 0.0, 30),
        (1.0, 1e9, 1),  # all the same, in a cache
        (1.0, 0.0, 30),  # and in none
        (10.0, 160.0, 10 + 20 * 0.5),  # half of ten rows of 32 bytes fit
    ],
)
def test_an_id_that_comes_again_is_in_the_cache_as_far_as_its_rows_fit(distinct, cache_bytes, rows_read):
    one = lookup(ids=30.0, distinct=distinct, columns=8, bags=0.0, state=0.0)
    seconds = of(one, lookup_s=(0.0, 0.0, 0.0, 1.0), cache_bytes=cache_bytes)
    assert seconds.stage(LOOKUP) == pytest.approx(rows_read * 32)


@pytest.mark.parametrize(
    ("kernel", "cached", "missed"),
    [("fused", 0.0, 0.0), ("fused_uvm", 0.0, 1.0), ("fused_uvm_caching", 0.25, 0.75), ("fused_uvm_caching", 1.0, 0.0)],
)
def test_rows_in_the_host_s_memory_cross_over(kernel, cached, missed):
    one = lookup(kernel=kernel, cached=cached, distinct=20.0, columns=8)
    seconds = of(one, host_bytes_per_s=100.0)
    assert seconds.stage(LOOKUP) == pytest.approx(20 * missed * 32 / 100)
    assert seconds.stage(UPDATE) == pytest.approx(20 * missed * 32 / 100)
    assert of(one, host_bytes_per_s=None).total == 0  # host and device are one


def test_a_replicated_table_has_its_gradient_summed_up_and_no_fused_update():
    one = lookup(sharding="data_parallel", ids=30.0, columns=8)
    seconds = of(one, lookup_s=(0.0, 0.0, 0.0, 1e-6), update_s=(1.0, 1.0, 1.0, 1.0))
    assert seconds.by[UPDATE, "lookup"] == pytest.approx(30 * 32 * 1e-6)
    assert (UPDATE, "update") not in seconds.by


def test_what_is_around_the_layers():
    numbers = {
        "batch_bytes": 1000.0, "batch_ids": 50.0, "cut_bags": 20.0, "cut_ids": 30.0, "tables": 3,
        "updates": (Operation(OPTIMIZER, None, 400), Operation(OPTIMIZER, None, 600)),
        "replicated": (Operation(OPTIMIZER, None, 800, 200),), "replicated_numbers": 100,
    }  # fmt: skip
    found = {
        "copy_bytes_per_s": 1e3, "ids_s": 0.1, "cut_s": (0.01, 0.02), "stream_bytes_per_s": 1e3, "fresh_bytes_per_s": 1e4,
        "step_s": 7.0, "table_s": 2.0, "shared_step_s": 5.0,
    }  # fmt: skip
    two, one = (around(workload(ranks=ranks, **numbers), rates(cores=8.0, **found)) for ranks in (2, 1))
    assert two.by[COPY, "copy"] == pytest.approx(1.0)
    assert two.by[INPUT_DIST, "ids"] == pytest.approx(50 * 0.1 + 20 * 0.01 + 30 * 0.02)
    assert one.by[INPUT_DIST, "ids"] == pytest.approx(20 * 0.01 + 30 * 0.02)
    assert two.by[OPTIMIZER, "optimizer"] == pytest.approx(1.0)
    # Gradient of 400 bytes: made, summed up, copied to be summed over ranks and back; then the optimizer's own.
    assert two.by[OPTIMIZER, "replicated"] == pytest.approx((4 * 400 + 800) / 1e3 + (400 + 200) / 1e4)
    assert (two.by[OTHER, "step"], two.by[OTHER, "tables"], two.by[OTHER, "shared"]) == (7.0, 6.0, 5.0)
    assert (OTHER, "shared") not in one.by
    on_device = around(workload(**numbers), rates(operation_s=1e-3, **found))
    assert on_device.by[OTHER, "operations"] == pytest.approx(TABLE_KERNELS * 1e-3)
    assert (OTHER, "operations") not in two.by


def test_nothing_replicated_takes_nothing():
    assert around(workload(), rates(stream_bytes_per_s=1.0)).by[OPTIMIZER, "replicated"] == 0


def test_seconds_are_kept_by_stage_and_term():
    some = Seconds({("a", "x"): 1.0, ("a", "y"): 2.0, ("b", "x"): 4.0})
    assert some.total == 7.0
    assert some.stages() == {"a": 3.0, "b": 4.0}
    assert some.terms() == {"x": 5.0, "y": 2.0}
    assert some.of_stage("a").total == some.stage("a") == 3.0
    assert some.without_stage("a").by == {("b", "x"): 4.0}
    assert some.scaled(2).by["b", "x"] == 8.0
    assert some.times({"x": 10.0, "y": 0.0}.__getitem__).by == {("a", "x"): 10.0, ("a", "y"): 0.0, ("b", "x"): 40.0}
    copied = some.scaled(1.0)
    copied += some
    assert (copied.total, some.total) == (14.0, 7.0)
