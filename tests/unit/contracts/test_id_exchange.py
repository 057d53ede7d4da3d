"""What torchrec's pipelines do to exchange ids."""

from __future__ import annotations

import inspect
import itertools

import torch
from torchrec.distributed import dist_data
from torchrec.distributed.embedding_sharding import KJTSplitsAllToAllMeta
from torchrec.distributed.train_pipeline import TrainPipelineSparseDist
from torchrec.distributed.train_pipeline.runtime_forwards import KJTAllToAllForward
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from dlrm.sharding import id_exchange
from tests.support.ranks import run_ranks
from tests.unit.contracts.hooks import hook

USED_IN = "dlrm/sharding/id_exchange.py"


@hook(
    "_pipeline_model", "_pipelined_modules", "_input_dists", "_dist", "_pg", "_splits", "_stagger", "_splits_cumsum",
    of="torchrec", used_in=USED_IN,
    see="_override_input_dist_forwards in distributed/train_pipeline/utils.py, and who calls it",
)  # fmt: skip
def test_a_pipeline_puts_its_own_forward_into_exchanges_when_it_takes_the_model() -> None:
    source = inspect.getsource(TrainPipelineSparseDist._pipeline_model)
    assert "_override_input_dist_forwards" in source
    assert "self._pipelined_modules" in source
    forward = KJTAllToAllForward(None, [2, 1], 3)
    assert (forward._pg, forward._splits, forward._stagger, forward._splits_cumsum) == (None, [2, 1], 3, [0, 2, 3])


@hook("_input", of="torchrec", used_in=USED_IN, see="KJTAllToAllForward.__call__ in train_pipeline/runtime_forwards.py")
def test_a_forward_from_the_host_tells_what_torchrec_s_tells() -> None:
    for told, expected in run_ranks(both_forwards, 2):
        assert told == expected


def both_forwards(rank: int, world_size: int) -> tuple[dict[str, object], dict[str, object]]:
    import torch.distributed as dist

    ids = KeyedJaggedTensor(keys=["a", "b", "c"], values=torch.arange(9), lengths=torch.tensor([1, 2, 0, 3, 2, 1]))
    group = dist.group.WORLD
    assert group is not None
    found = [kind(group, [2, 1], 1)(ids) for kind in (id_exchange._FromHost, KJTAllToAllForward)]
    told, expected = ({name: plain(value) for name, value in vars(meta).items() if name != "pg"} for meta in found)
    assert set(told) == {field for field in KJTSplitsAllToAllMeta.__dataclass_fields__ if field != "pg"}
    return told, expected


def plain(value: object) -> object:
    if isinstance(value, torch.Tensor):
        return value.tolist()
    if isinstance(value, KeyedJaggedTensor):
        return list(value.keys())
    return [plain(each) for each in value] if isinstance(value, list) else str(value)


@hook("_get_recat", of="torchrec", used_in=USED_IN, see="distributed/dist_data.py")
def test_the_order_of_received_ids_follows_from_its_arguments_and_is_made_once() -> None:
    make = dist_data._get_recat
    try:
        expected = {}
        cases = list(itertools.product((0, 1, 3), (1, 2, 4), (None, 5), (1, 2)))
        for features, ranks, samples, stagger in cases:
            if ranks % stagger == 0:
                sizes = None if samples is None else [samples] * ranks
                expected[features, ranks, samples, stagger] = make(features, ranks, stagger, torch.device("cpu"), sizes)
        id_exchange._make_orders_once()
        assert dist_data._get_recat is not make
        replaced = dist_data._get_recat
        id_exchange._make_orders_once()
        assert dist_data._get_recat is replaced
        for (features, ranks, samples, stagger), order in expected.items():
            sizes = None if samples is None else [samples] * ranks
            given = (features, ranks, stagger, torch.device("cpu"), sizes)
            got = replaced(*given)
            assert (got is None and order is None) or torch.equal(got, order)
            assert replaced(*given) is got
    finally:
        dist_data._get_recat = make
