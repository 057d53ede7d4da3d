"""Whether training can go on from a state: all numbers finite, and none so large that the next step's will not be.

A step's loss is that of the weights before it, so that weights which have just exploded have been in no loss yet. They need
not be infinite themselves for that: a step of size 1e30 leaves finite weights whose products are not.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence

import torch

from dlrm.checkpoint.delta.format import is_quantised
from dlrm.checkpoint.delta.quantise import row_extremes
from dlrm.checkpoint.manifest import tensor_dtypes
from dlrm.checkpoint.snapshot import Snapshot
from dlrm.checkpoint.tensors import GlobalTensor
from dlrm.errors import CheckpointError

LARGEST_WEIGHT = 2.0**32
"""The product of four such is beyond float32 (2^128), and activations are products of weights layer after layer."""
LARGEST_STATE = LARGEST_WEIGHT**2
"""Of optimizers, whose state holds squares of gradients."""


class DivergedStateError(CheckpointError):
    """A state from which training cannot go on: one to be saved, or of a checkpoint that is whole."""


def fault_in_state(tensors: Sequence[GlobalTensor]) -> str:
    """What of a state training cannot go on from, in words; empty: nothing.

    One pass over what this rank holds, on the device where it is, without memory of its size; one transfer a device.

    Args:
        tensors: of the state, or of a delta checkpoint.
    """
    return _fault_in((tensor.name, shard.tensor.detach()) for tensor in tensors for shard in tensor.shards)


def fault_in_snapshot(snapshot: Snapshot) -> str:
    """The same of what a rank is about to write, from its copy in the host's memory: training need not stand for it."""
    dtypes = tensor_dtypes(snapshot.tensors)
    return _fault_in(
        (chunk.tensor, torch.frombuffer(chunk.data, dtype=dtypes[chunk.tensor]).view(chunk.slice.shape))
        for chunks in snapshot.files
        for chunk in chunks
        if chunk.data
    )


@torch.no_grad()
def _fault_in(named: Iterable[tuple[str, torch.Tensor]]) -> str:
    names: dict[torch.device, list[str]] = defaultdict(list)
    extremes: dict[torch.device, list[torch.Tensor]] = defaultdict(list)
    for name, values in named:
        for numbers in _numbers(name, values):
            names[numbers.device].append(name)
            extremes[numbers.device].append(torch.stack(numbers.aminmax()).double())
    faults: dict[str, str] = {}
    for device, pairs in extremes.items():
        for name, (least, largest) in zip(names[device], torch.stack(pairs).tolist(), strict=True):
            if fault := _fault(name, least, largest):
                faults.setdefault(name, fault)
    if not faults:
        return ""
    (name, fault), *others = faults.items()
    more = (
        f" (so do {len(others)} other tensors)" if len(others) > 1 else f" (so does {others[0][0]})" if others else ""
    )
    return f"{name} holds {fault}{more}"


def _numbers(name: str, values: torch.Tensor) -> Iterator[torch.Tensor]:
    """The numbers of values that are floating-point, or of quantised rows the least and largest of each."""
    if not values.numel():
        return
    if values.is_floating_point():
        yield values
    elif is_quantised(name) and values.dtype == torch.uint8:
        yield row_extremes(values.flatten(0, -2))


def _fault(name: str, least: float, largest: float) -> str:
    if math.isnan(least) or math.isnan(largest):  # aminmax hands them on
        return "NaN"
    found = max(-least, largest)
    if math.isinf(found):
        return "an infinite number"
    limit = LARGEST_STATE if ".optimizer." in name else LARGEST_WEIGHT
    return f"a number of size {found:.1e}, more than {limit:.1e}" if found > limit else ""
