"""The rehearsal's mixtures meet all that the package has on CUDA: nothing that is added to it stays unrehearsed."""

from typing import get_args

import pytest

from dlrm.config.sharding import Kernel, ShardingKind
from dlrm.errors import ConfigError
from dlrm.optim.tables.build import TABLE_OPTIMIZERS, table_optimizer
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


def test_the_names_are_those_of_the_package():
    assert set(TYPES) == set(get_args(ShardingKind))
    assert {"dense", *KERNELS} == set(get_args(Kernel))
    assert set(OPTIMIZERS) == set(TABLE_OPTIMIZERS)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_nothing_is_left_out_but_what_is_refused(optimizer):
    wanted = ON_CUDA - REFUSED.get(optimizer, set())
    assert set(everything(optimizer)) == wanted
    assert {*whole_tables(), *cut_tables(optimizer)} == wanted
    assert {len(everything(optimizer)), len(whole_tables()), len(cut_tables(optimizer))} == {TABLES}
