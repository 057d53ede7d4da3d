import io

import pytest
import rich.console

from dlrm.config.optim import RowwiseAdagrad, SparseAdagrad, SparseAdam, SparseSgd
from dlrm.optim.tables.build import table_optimizer
from dlrm.run.console import plan_table
from dlrm.sharding.report import TablePlacement, placements, ranks_text
from tests.unit.sharding.plans import ROWS, config_of, plan_of, world_of

GIB = 1024**3
SIZES = {f"cat_{i}": (rows, 16) for i, rows in enumerate(ROWS)}
STATE = {  # numbers of state beside the weights of a whole table
    SparseSgd: lambda rows, dim: 0,
    SparseAdagrad: lambda rows, dim: rows * dim,
    RowwiseAdagrad: lambda rows, dim: rows,
    SparseAdam: lambda rows, dim: 2 * rows * dim,
}


def report(kind, optimizer=None, ranks=4):
    optimizer = optimizer or SparseAdagrad(lr=1.0)
    plan = plan_of(config_of(f"sharding.types={kind}"), world_of(ranks))
    return placements(plan, SIZES, table_optimizer(optimizer), ranks)


@pytest.mark.parametrize("optimizer", [kind(lr=1.0) for kind in STATE], ids=lambda optimizer: optimizer.kind)
@pytest.mark.parametrize("kind", ["table_wise", "row_wise", "table_row_wise"])
def test_the_parts_of_a_table_weigh_what_the_table_and_its_state_weigh(kind, optimizer):
    for placement, (rows, dim) in zip(report(kind, optimizer), SIZES.values(), strict=True):
        whole = 4 * (rows * dim + STATE[type(optimizer)](rows, dim)) / GIB
        assert sum(placement.gib_by_rank) == pytest.approx(whole, rel=1e-12)


@pytest.mark.parametrize("kind", ["column_wise", "table_column_wise", "grid_shard"])
def test_row_wise_state_is_kept_by_every_column_shard(kind):
    for placement, (rows, dim) in zip(report(kind, RowwiseAdagrad(lr=1.0)), SIZES.values(), strict=True):
        columns = dim // 4
        assert sum(placement.gib_by_rank) == pytest.approx(4 * (rows * dim + rows * columns) / GIB, rel=1e-12)


def test_a_data_parallel_table_weighs_its_whole_on_every_rank():
    for placement, (rows, dim) in zip(report("data_parallel"), SIZES.values(), strict=True):
        assert placement.gib_by_rank == (2 * 4 * rows * dim / GIB,) * 4
        assert placement.ranks == (0, 1, 2, 3)


def test_rows_are_divided_as_the_plan_says():
    cat_0 = report("row_wise")[0]  # 7 rows on 4 ranks: 2, 2, 2, 1
    assert [round(gib * GIB / (2 * 4 * 16)) for gib in cat_0.gib_by_rank] == [2, 2, 2, 1]


def test_a_placement_tells_what_a_person_asks():
    for placement, (name, (rows, dim)) in zip(report("table_wise"), SIZES.items(), strict=True):
        told = (placement.table, placement.rows, placement.dim, placement.sharding, placement.kernel)
        assert told == (name, rows, dim, "table_wise", "fused")
        assert len(placement.ranks) == 1


@pytest.mark.parametrize(
    ("ranks", "text"),
    [((), ""), ((3,), "3"), ((0, 1), "0,1"), ((0, 1, 2, 3), "0-3"), ((0, 2, 3), "0,2,3"), ((0, 5), "0,5")],
)
def test_ranks_are_written_shortly(ranks, text):
    assert ranks_text(ranks) == text


def rendered(table):
    console = rich.console.Console(file=io.StringIO(), width=110)
    console.print(table)
    return console.file.getvalue()


def test_the_plan_is_a_table_with_a_line_for_each_table_and_the_sums_at_its_foot():
    placed = [
        TablePlacement("cat_0", 40_000_000, 128, "row_wise", "fused", (5.0, 5.0, 5.0, 4.5)),
        TablePlacement("cat_1", 63, 16, "table_wise", "fused", (0.0, 0.0, 0.25, 0.0)),
    ]
    lines = [line.replace("│", " ").split() for line in rendered(plan_table(placed)).splitlines()]
    assert lines[0] == ["Sharding", "plan", "over", "4", "rank(s)"]
    assert ["cat_0", "40,000,000", "128", "row_wise", "fused", "0-3", "5.000"] in lines
    assert ["cat_1", "63", "16", "table_wise", "fused", "2", "0.250"] in lines
    assert ["2", "tables", "40,000,063", "4.500", "-", "5.250"] in lines


def test_a_plan_without_tables_is_an_empty_table():
    assert "Sharding plan over 0 rank(s)" in rendered(plan_table([]))
