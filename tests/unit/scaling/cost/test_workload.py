"""What ranks look up and send each other, against loops over samples, ids and shards."""

from collections import Counter
from itertools import pairwise, product

import numpy as np
import pytest

from dlrm.data.id_statistics.base import UniformIds, row_ranges
from dlrm.scaling.cost.workload import Formats, Tables, all_reduced, bytes_by_collective
from dlrm.scaling.stage_names import INPUT_DIST, OUTPUT_DIST, backward_of
from tests.unit.sharding.plans import blocks_of, config_of, plan_of, tables_in, world_of

RANKS, HOST = 4, 2
DIM, SAMPLES = 16, 3
ROWS = {"cat_0": 9, "cat_1": 50, "cat_2": 300, "cat_3": 40, "cat_4": 11}
FORMATS = Formats(ids=8, forward=2, backward=4)
KINDS = ["table_wise", "row_wise", "column_wise", "table_row_wise", "table_column_wise", "grid_shard", "data_parallel"]
STATE = {"columns": 4.0}


class Counted:
    """Of ids that are there: each rank has samples with these bags."""

    def __init__(self, rows, bags):
        self.rows, self.bags = rows, bags
        self.ids = [i for bag in bags for i in bag]

    @property
    def ids_per_sample(self):
        return len(self.ids) / len(self.bags)

    def distinct(self, lookups):
        assert lookups in (len(self.ids), RANKS * len(self.ids))
        return float(len(set(self.ids)))

    def row_range_shares(self, rows, ranks):
        edges = row_ranges(rows, ranks)
        return [sum(a <= i < b for i in self.ids) / len(self.ids) for a, b in pairwise(edges)]


def bags_of():
    """The same of every rank, of 0 to 3 ids, most of them in the first rows."""
    generator = np.random.default_rng(1)
    lengths = [(1, 0, 3), (2, 2, 1), (1, 1, 1), (0, 3, 2), (1, 2, 0)]
    return {
        table: [[int(i) for i in rows * generator.random(n) ** 3] for n in of_table]
        for (table, rows), of_table in zip(ROWS.items(), lengths, strict=True)
    }


def planned(*options):
    return plan_of(config_of(*options), world_of(RANKS, HOST), rows=tuple(ROWS.values()), batch=SAMPLES)


def tables_of(plan, bags, ranks=RANKS, per_host=HOST):
    return Tables(
        plan,
        {table: (rows, DIM) for table, rows in ROWS.items()},
        {table: Counted(rows, bags[table]) for table, rows in ROWS.items()},
        state_bytes=lambda columns: STATE["columns"],
        samples=SAMPLES,
        ranks=ranks,
        ranks_per_host=per_host,
        formats=FORMATS,
    )


class Net:
    """Bytes from rank to rank."""

    def __init__(self):
        self.sent, self.received = Counter(), Counter()

    def move(self, what, source, target, size):
        if source != target:
            self.sent[(*what, source)] += size
            self.received[(*what, target)] += size


def exchanged(plan, bags):
    """By loops: ids to where rows are, pooled embeddings back, gradients the same way again."""
    net = Net()
    there, back = OUTPUT_DIST, backward_of(OUTPUT_DIST)

    def pooled(collective, undone, source, target, columns):
        net.move((there, collective), source, target, columns * FORMATS.forward)
        net.move((back, undone), target, source, columns * FORMATS.backward)

    for table, parameter in tables_in(plan).items():
        kind = parameter.sharding_type
        if kind == "data_parallel":
            continue
        for (owner, row, _, rows, columns), rank, bag in product(blocks_of(parameter), range(RANKS), bags[table]):
            here = sum(row <= i < row + rows for i in bag)
            net.move((INPUT_DIST, "all_to_all"), rank, owner, here * FORMATS.ids + 4)
            if kind == "row_wise":
                pooled("reduce_scatter", "all_gather", owner, rank, columns)
            elif kind in ("table_row_wise", "grid_shard"):
                # The sample's sums meet on the rank of the owner's host that has the number its own rank has on its.
                mate = owner // HOST * HOST + rank % HOST
                pooled("reduce_scatter", "all_gather", owner, mate, columns)
                if owner == mate:  # once for all ranks of the host
                    pooled("all_to_all", "all_to_all", mate, rank, columns)
            else:
                pooled("all_to_all", "all_to_all", owner, rank, columns)
    return net


@pytest.mark.parametrize("kind", [*KINDS, "table_wise,row_wise,column_wise"])
def test_bytes_between_ranks_are_those_of_a_loop_over_samples_and_shards(kind):
    bags, plan = bags_of(), planned(f"sharding.types={kind}")
    net = exchanged(plan, bags)
    found = {"sent": Counter(), "received": Counter()}
    for transfer in tables_of(plan, bags).transfers():
        if transfer.collective == "all_reduce":
            continue
        assert (transfer.ranks, transfer.ranks_per_host) == (RANKS, HOST)
        for rank in range(RANKS):
            for way in found:
                found[way][transfer.stage, transfer.collective, rank] += float(getattr(transfer, way)[rank])
    for way in found:
        assert +found[way] == pytest.approx(dict(getattr(net, way))), way
    assert bool(net.sent) == (kind != "data_parallel")


@pytest.mark.parametrize("kind", KINDS)
def test_lookups_of_a_rank_are_those_of_its_shards(kind):
    bags, plan = bags_of(), planned(f"sharding.types={kind}")
    found = tables_of(plan, bags).lookups()
    for table, parameter in tables_in(plan).items():
        if kind == "data_parallel":
            blocks = [(rank, 0, 0, ROWS[table], DIM) for rank in range(RANKS)]
        else:
            blocks = blocks_of(parameter)
        total = 0.0
        for rank in range(RANKS):
            mine = [block for block in blocks if block[0] == rank]
            lookups = [lookup for lookup in found[rank] if lookup.table == table]
            assert len(lookups) == len(mine)
            for (_, row, _, rows, columns), lookup in zip(mine, lookups, strict=True):
                copies = 1 if kind == "data_parallel" else RANKS
                asked = [i for bag in bags[table] for i in bag if row <= i < row + rows]
                assert lookup.ids == pytest.approx(copies * len(asked))
                assert (lookup.rows, lookup.columns, lookup.bags) == (rows, columns, copies * SAMPLES)
                assert (lookup.sharding, lookup.state) == (kind, 4.0)
                assert 0 <= lookup.distinct <= min(rows, lookup.ids) + 1e-9
                total += lookup.distinct * columns
        once = RANKS if kind == "data_parallel" else 1
        assert total <= once * len({i for bag in bags[table] for i in bag}) * DIM + 1e-9


def test_groups_of_collectives_and_number_of_calls():
    groups = {
        kind: {(t.stage, t.collective, t.group, t.calls) for t in tables_of(planned(f"sharding.types={kind}"), bags_of())
               .transfers()}
        for kind in ("table_wise", "row_wise", "table_row_wise")
    }  # fmt: skip
    ids, back = (INPUT_DIST, "all_to_all", "world", 2), backward_of(OUTPUT_DIST)
    assert groups["table_wise"] == {ids, (OUTPUT_DIST, "all_to_all", "world", 1), (back, "all_to_all", "world", 1)}
    assert groups["row_wise"] == {
        ids, (OUTPUT_DIST, "reduce_scatter", "world", 1), (back, "all_gather", "world", 1)
    }  # fmt: skip
    assert groups["table_row_wise"] == {
        ids,
        (OUTPUT_DIST, "reduce_scatter", "host", 1),
        (back, "all_gather", "host", 1),
        (OUTPUT_DIST, "all_to_all", "across", 1),
        (back, "all_to_all", "across", 1),
    }


def test_on_one_rank_nothing_is_sent():
    plan = plan_of(config_of("sharding.types=table_wise"), world_of(1), rows=tuple(ROWS.values()))
    assert list(tables_of(plan, bags_of(), 1, 1).transfers()) == []
    assert list(all_reduced("s", 100.0, 1, 1)) == []
    assert list(all_reduced("s", 0.0, 4, 2)) == []


def test_ids_of_more_ranks_than_rows_go_to_the_first_ranks():
    """Of 5 rows on 4 ranks the ranges are 2, 2, 1 and none."""
    plan = plan_of(config_of("sharding.types=row_wise"), world_of(4), rows=(5,))
    tables = Tables(
        plan, {"cat_0": (5, DIM)}, {"cat_0": UniformIds(5)}, state_bytes=lambda columns: 0.0, samples=10.0, ranks=4,
        ranks_per_host=4, formats=Formats(),
    )  # fmt: skip
    assert [sum(lookup.ids for lookup in of_rank) for of_rank in tables.lookups()] == pytest.approx([16, 16, 8, 0])


def test_an_all_reduce_sends_as_a_ring_does():
    class Sends:
        transfers = tuple(all_reduced("all-reduce", 100.0, 4, 2, calls=3))

    assert Sends.transfers[0].calls == 3
    assert bytes_by_collective(Sends) == {"all_reduce": 2 * 100 * 3 / 4}
