"""Whether training can go on from a state: all numbers finite, and none so large that the next step's will not be.

A step's loss is that of the weights before it, so that weights which have just exploded have been in no loss yet. They need
not be infinite themselves for that: a step of size 1e30 leaves finite weights whose products are not.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator, Sequence

import torch

from dlrm.checkpoint.increments import PREFIX as TOUCHED_PREFIX
from dlrm.checkpoint.increments import QUANTISED
from dlrm.checkpoint.reduced import PREFIX as REDUCED_PREFIX
from dlrm.checkpoint.row_codes import LEVELS, row_parameters
from dlrm.checkpoint.tensors import LogicalTensor

LARGEST_WEIGHT = 2.0**32
"""The product of four such is beyond float32 (2^128), and activations are products of weights layer after layer."""
LARGEST_STATE = LARGEST_WEIGHT**2
"""Of optimizers, whose state holds squares of gradients."""
_QUANTISED_ENDS = tuple(f".{name}" for name in QUANTISED)


@torch.no_grad()
def fault_in_state(tensors: Sequence[LogicalTensor]) -> str:
    """What of a state training cannot go on from, in words; empty: nothing.

    One pass over what this rank holds, on the device where it is, without memory of its size; one transfer a device.

    Args:
        tensors: of the state, or of an increment.
    """
    names: dict[torch.device, list[str]] = defaultdict(list)
    extremes: dict[torch.device, list[torch.Tensor]] = defaultdict(list)
    for tensor in tensors:
        for values in _numbers(tensor):
            names[values.device].append(tensor.name)
            extremes[values.device].append(torch.stack(values.aminmax()).double())
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


def _numbers(tensor: LogicalTensor) -> Iterator[torch.Tensor]:
    """The numbers of a tensor's blocks that are floating-point, or of quantised rows the least and largest of each."""
    codes = tensor.name.startswith(REDUCED_PREFIX) or (
        tensor.name.startswith(TOUCHED_PREFIX) and tensor.name.endswith(_QUANTISED_ENDS)
    )
    for block in tensor.blocks:
        values = block.tensor.detach()
        if not values.numel():
            continue
        if values.is_floating_point():
            yield values
        elif codes and values.dtype == torch.uint8:
            scale_N1, offset_N1 = row_parameters(values.flatten(0, -2))
            yield torch.cat([offset_N1, offset_N1 + LEVELS * scale_N1])


def _fault(name: str, least: float, largest: float) -> str:
    if math.isnan(least) or math.isnan(largest):  # aminmax hands them on
        return "NaN"
    found = max(-least, largest)
    if math.isinf(found):
        return "an infinite number"
    limit = LARGEST_STATE if ".optimizer." in name else LARGEST_WEIGHT
    return f"a number of size {found:.1e}, more than {limit:.1e}" if found > limit else ""
