"""How many ids ranks send each other, told from host to host.

A rank must know how many ids it receives before it can receive them. torchrec's pipelines send these numbers from device to
device: each vector of them is made on the device of a list that the host has, and read back by the host, which waits for
the device at every one (on CUDA nine times a step and sharding type). The host has them and the host needs them, so here
they stay there, and gloo sends them. Where ids are cut into ranges of rows the device alone knows the numbers, and one wait
is left to read them.

The price is a message of a few hundred bytes to every other rank in each step, over the network that gloo uses, ahead of
the time. What that takes on many hosts is not measured.

None of it is public: tests/unit/contracts/test_id_exchange.py holds torchrec to it.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import torch
from torchrec.distributed import dist_data
from torchrec.distributed.embedding_sharding import KJTSplitsAllToAllMeta
from torchrec.distributed.train_pipeline import TrainPipelineSparseDist
from torchrec.distributed.train_pipeline.runtime_forwards import KJTAllToAllForward
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor


class SparseDistPipeline(TrainPipelineSparseDist):  # type: ignore[misc]  # torchrec is untyped here
    """torchrec's pipeline that starts the exchange of the next batch's ids while this one is trained."""

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        # Of a DMPCollection it would average the copies of tables every so many batches, counted from its own making. Here
        # that follows from the number of the step (dlrm.sharding.copies).
        self._dmp_collection_sync_interval_batches = None

    def _pipeline_model(self, *arguments: Any, **named: Any) -> None:
        super()._pipeline_model(*arguments, **named)
        if self._device.type == "cuda":  # on the CPU the numbers are where they belong
            tell_on_host(self._pipelined_modules)


def tell_on_host(modules: list[torch.nn.Module]) -> None:
    """Have these sharded modules, of which a pipeline has taken hold, exchange ids as said above."""
    _make_orders_once()
    for module in modules:
        for child in module.modules():
            for input_dist in getattr(child, "_input_dists", []):
                exchange: Any = getattr(input_dist, "_dist", None)
                if isinstance(getattr(exchange, "forward", None), KJTAllToAllForward):
                    exchange.forward = _FromHost(exchange._pg, exchange._splits, exchange._stagger)


class _FromHost(KJTAllToAllForward):  # type: ignore[misc]
    """What torchrec's does, with the numbers on the host."""

    @torch.no_grad()
    def __call__(self, ids: KeyedJaggedTensor) -> KJTSplitsAllToAllMeta:
        """The numbers of ids for each rank, and what to send once the others have told theirs."""
        rank = self._pg.rank()
        numbers = ids.dist_splits(self._splits)
        to_tell = [*numbers, [ids.stride()] * self._pg.size()]  # every part of a batch has one size, and so one stride
        return KJTSplitsAllToAllMeta(
            pg=self._pg,
            _input=ids,
            splits=self._splits,
            splits_tensors=[torch.tensor(of_ranks) for of_ranks in to_tell],
            input_splits=numbers,
            input_tensors=ids.dist_tensors(),
            labels=ids.dist_labels(),
            keys=ids.keys()[self._splits_cumsum[rank] : self._splits_cumsum[rank + 1]],
            device=ids.values().device,
            stagger=self._stagger,
        )


def _make_orders_once() -> None:
    """Have torchrec keep the order into which received ids are put, which it copies to the device in each step anew.

    It follows from the numbers of features, ranks and samples alone.
    """
    if hasattr(dist_data._get_recat, "kept"):
        return
    make = dist_data._get_recat

    @lru_cache(maxsize=64)
    def kept(
        features: int, ranks: int, stagger: int, device: torch.device | None, samples: tuple[int, ...] | None
    ) -> torch.Tensor | None:
        order: torch.Tensor | None = make(features, ranks, stagger, device, samples)
        return order

    def order(
        local_split: int,
        num_splits: int,
        stagger: int = 1,
        device: torch.device | None = None,
        batch_size_per_rank: list[int] | None = None,
    ) -> torch.Tensor | None:
        samples = None if batch_size_per_rank is None else tuple(batch_size_per_rank)
        return kept(local_split, num_splits, stagger, device, samples)

    order.kept = kept  # type: ignore[attr-defined]
    dist_data._get_recat = order
