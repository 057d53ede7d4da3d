"""The rehearsal's mixtures meet all that the package has on CUDA: nothing that is added to it stays unrehearsed."""

from typing import get_args

import pytest

from dlrm.config.optim import SparseOptimizer
from dlrm.config.sharding import Kernel, ShardingKind
from dlrm.errors import ConfigError
from dlrm.optim.tables.build import table_optimizer
from dlrm.schema import Schema
from dlrm.sharding.planner import table_constraints
from dlrm.sharding.sharder import TableSharder
from scripts.rehearse_cuda import matrix
from scripts.rehearse_cuda.job import Asked
from scripts.rehearse_cuda.mixtures import (
    KERNELS,
    OPTIMIZERS,
    TABLES,
    TYPES,
    as_options,
    cut_tables,
    everything,
    whole_tables,
)
from tests.unit.sharding.plans import config_of, world_of

ON_CUDA = {
    (kind, kernel)
    for kind in get_args(ShardingKind)
    for kernel in TableSharder().compute_kernels(kind, "cuda")
    if kernel in get_args(Kernel)
}
BEHIND_A_CACHE = {(kind, "fused_uvm_caching") for kind in ("column_wise", "table_column_wise", "grid_shard")}
REFUSED = {"rowwise_adagrad": BEHIND_A_CACHE, "adam": {("data_parallel", "dense")}}
SCHEMA = Schema.numbered(13, (1000,) * TABLES)


def test_the_names_are_those_of_the_package():
    assert set(TYPES) == set(get_args(ShardingKind))
    assert {"dense", *KERNELS} == set(get_args(Kernel))
    variants = get_args(get_args(SparseOptimizer)[0])
    assert set(OPTIMIZERS) == {variant.model_fields["kind"].default for variant in variants}


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_nothing_is_left_out_but_what_is_refused(optimizer):
    wanted = ON_CUDA - REFUSED.get(optimizer, set())
    assert set(everything(optimizer)) == wanted
    assert {*whole_tables(), *cut_tables(optimizer)} == wanted
    assert {len(everything(optimizer)), len(whole_tables()), len(cut_tables(optimizer))} == {TABLES}


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("pairs", [everything, cut_tables])
def test_each_table_gets_its_pair(pairs, optimizer):
    config = config_of(f"optim.sparse={{kind: {optimizer}, lr: 0.1}}", *as_options(pairs(optimizer)))
    constraints = table_constraints(
        config.sharding, table_optimizer(config.optim.sparse), SCHEMA, world_of(8, device="cuda").rank_info
    )
    found = [(constraint.sharding_types, constraint.compute_kernels) for constraint in constraints.values()]
    assert found == [([kind], [kernel]) for kind, kernel in pairs(optimizer)]


def test_replicated_tables_are_refused_under_adam():
    config = config_of("optim.sparse={kind: adam, lr: 0.1}", "--sharding.types=data_parallel")
    with pytest.raises(ConfigError, match="would change the optimizer"):
        table_constraints(config.sharding, table_optimizer(config.optim.sparse), SCHEMA, world_of(8).rank_info)


def test_a_pair_that_no_rank_had_is_told():
    case = matrix.Case("mixed", Asked(()), held=frozenset({("row_wise", "fused"), ("data_parallel", "dense")}))
    first, second = {"held": [["data_parallel", "dense"]]}, {"held": [["row_wise", "fused"]]}  # lists, as JSON has them
    assert matrix.not_held(case, [first, second]) == []
    assert matrix.not_held(case, [first]) == ["no rank held a table that is row_wise with kernel fused"]


@pytest.mark.parametrize("config", matrix.CONFIGS)
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("ranks", ["1 rank,", "2 ranks,", "of 8,"])
def test_the_matrix_shows_every_pair_for_each_configuration(config, optimizer, ranks):
    of_config = [case for case in matrix.cases() if case.name.startswith(f"{config}, ")]
    cases = [case for case in of_config if f" {ranks} " in case.name and case.name.endswith(f", {optimizer}")]
    assert frozenset().union(*(case.held for case in cases)) == ON_CUDA - REFUSED.get(optimizer, set())
