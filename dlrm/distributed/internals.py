"""What the trainer leans on in torch, torchrec and fbgemm although nobody promises to keep it: the way to the kernels.

There is no public way from a sharded model to the fbgemm modules that hold its tables, or from an optimizer to those it
stands for. Each step of that way is taken here and nowhere else. What is leaned on besides stays in modules of its own:

- ``dlrm/sharding/id_exchange.py``: what torchrec's pipelines put in the place of an exchange of ids;
- ``dlrm/sharding/replicas.py``: how DistributedModelParallel makes a DistributedDataParallel, and the order of its buckets;
- ``dlrm/sharding/copies.py``: what torchrec's DMPCollection asks of its own methods, and what it averages;
- ``dlrm/sharding/empty_shards.py``: how fbgemm's CPU kernels tell their tables apart;
- ``dlrm/sharding/unpooled_on_cpu.py``: what fbgemm's module of data-parallel tables makes of unpooled ones on CPU;
- ``dlrm/compiled.py``: numba's cache of machine code;
- ``launch/elastic_agent.py``: torchelastic's agent; ``launch/signed_store.py``: the state of its rendezvous.

``tests/unit/contracts/`` holds the libraries to all of it, and says by name what a new version has changed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, TypeAlias

from torch import nn
from torch._C import _current_autograd_node as current_node
from torch._subclasses.fake_tensor import FakeTensorMode as FakeTensors
from torch.autograd import _get_sequence_nr as next_sequence_number  # type: ignore[attr-defined]
from torch.distributed._shard.sharded_tensor import ShardedTensor  # type: ignore[attr-defined]
from torch.distributed.optim import _apply_optimizer_in_backward  # type: ignore[attr-defined]
from torch.utils._python_dispatch import TorchDispatchMode as DispatchMode
from torch.utils._pytree import tree_leaves
from torchrec.distributed.embedding import ShardedEmbeddingCollection
from torchrec.distributed.embedding_lookup import GroupedEmbeddingsLookup, GroupedPooledEmbeddingsLookup
from torchrec.distributed.embeddingbag import ShardedEmbeddingBagCollection
from torchrec.optim.keyed import CombinedOptimizer, KeyedOptimizer

__all__ = [
    "DispatchMode",  # sees each operator
    "FakeTensors",  # tensors made in it have no memory
    "ShardedTensor",  # what state_dict holds of a sharded table; torch has no public name for it
    "all_lookups",
    "apply_optimizer_in_backward",
    "caches_rows",
    "current_node",  # of autograd, whose backward pass runs
    "fused_lookups",
    "is_pooled",
    "kernels_of",
    "kernels_of_optimizer",
    "next_sequence_number",  # which the next node of autograd has on this thread
    "replace_lookups",
    "set_trained_steps",
    "tree_leaves",  # the tensors in whatever holds some
]

_SHARDED = (ShardedEmbeddingBagCollection, ShardedEmbeddingCollection)
Lookup: TypeAlias = GroupedPooledEmbeddingsLookup | GroupedEmbeddingsLookup
"""Of rows that are summed, and of rows that are not."""

apply_optimizer_in_backward = _apply_optimizer_in_backward
"""Says by which optimizer a table is trained once it is sharded; torchrec's public function of that name is deprecated."""


def fused_lookups(sharded: nn.Module) -> Iterator[Lookup]:
    """Torchrec's modules, one a sharding type, that hold the fused kernels of this rank."""
    for lookup in all_lookups(sharded):
        if isinstance(lookup, Lookup):
            yield lookup


def is_pooled(lookup: nn.Module) -> bool:
    """Whether a lookup gives sums of rows (B, X); otherwise it gives all rows of all features as one vector."""
    return isinstance(lookup, GroupedPooledEmbeddingsLookup)


def all_lookups(sharded: nn.Module) -> Iterator[nn.Module]:
    """The modules, one a sharding type, that make embeddings of ids.

    Those of data-parallel tables are inside of a DistributedDataParallel.
    """
    for module in sharded.modules():
        if isinstance(module, _SHARDED):
            yield from module._lookups


def replace_lookups(sharded: nn.Module, stand_in: Callable[[nn.Module], Any]) -> None:
    """Have something else called in the place of each of :func:`all_lookups`, and of what hangs on its calls."""
    for module in sharded.modules():
        if isinstance(module, _SHARDED):
            module._lookups[:] = [stand_in(lookup) for lookup in module._lookups]


def kernels_of(lookup: Lookup) -> list[tuple[Any, Any]]:
    """What a lookup computes with, in the order of its features.

    Returns:
        For each group of tables torchrec's GroupedEmbeddingConfig, whose ``embedding_tables`` say which part of which table
        is there, and fbgemm's SplitTableBatchedEmbeddingBagsCodegen, which has them in the same order. None on a rank
        without a shard of the lookup's sharding type.
    """
    modules = lookup._emb_modules
    return [(config, module.emb_module) for config, module in zip(lookup.grouped_configs, modules, strict=True)]


def single_optimizers(optimizer: KeyedOptimizer) -> Iterator[Any]:
    """The optimizers that one is combined of, in the order of its parameter groups; itself if of none."""
    if isinstance(optimizer, CombinedOptimizer):
        for _, part in optimizer.optimizers:
            yield from single_optimizers(part)
    else:
        yield optimizer


def kernels_of_optimizer(fused: KeyedOptimizer) -> Iterator[Any]:
    """The modules of fbgemm behind torchrec's fused optimizers."""
    for part in single_optimizers(fused):
        yield part._emb_module


def set_trained_steps(kernel: Any, steps: int) -> None:
    """Tell a module of fbgemm how many steps were trained: it counts forward passes, those of evaluations as well.

    Adam corrects the bias of its moments by that number.
    """
    kernel.iter_cpu.fill_(steps)
    if steps == 0:  # a kernel whose iter_cpu is 0 takes it from here
        kernel.iter.zero_()


def caches_rows(kernel: Any) -> bool:
    """Whether a module of fbgemm keeps rows of tables in host memory on the device (``fused_uvm_caching``)."""
    cache = getattr(kernel, "lxu_cache_weights", None)
    return cache is not None and bool(cache.numel())
