"""The device's arithmetic, done by torch's CPU kernels: its memory is the host's, so a CPU tensor can be laid over it.

Each operation runs twice. First on the device's tensors: checks, allocations, launches and waits are the real ones and are
counted, but the kernels do nothing. Then on CPU tensors over the same memory, and the results are written to where the
kernels would have put them.

Sizes hang on integers (how many ids a rank sends, how many rows are unique), so what makes integers is always computed, and
so is what is small. The rest, floating point of full size, is computed if asked for; otherwise it stays zero.
"""

from __future__ import annotations

import ctypes
from collections import Counter
from typing import Any

import torch
from torch._subclasses.fake_tensor import is_fake  # a tensor without memory, by which memory is foreseen
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map, tree_unflatten

from scripts.rehearse_cuda.table_kernels import KERNELS, by_name

# Metadata, and collectives, which NCCL's stand-in does itself.
_NAMESPACES_LEFT_ALONE = ("c10d", "_c10d_functional", "profiler", "prim")
_LEFT_ALONE = (
    "set_",
    "resize_",
    "record_stream",
    "empty",
    "empty_strided",
    "empty_like",
    "new_empty",
    "new_empty_strided",
)
_SMALL_ELEMENTS = 1 << 18


def host_view(tensor: torch.Tensor) -> torch.Tensor:
    """A CPU tensor over the same memory."""
    storage = tensor.untyped_storage()
    if not storage.nbytes():
        return torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype)
    memory = (ctypes.c_uint8 * storage.nbytes()).from_address(storage.data_ptr())
    over = torch.frombuffer(memory, dtype=torch.uint8).untyped_storage()
    found = torch.empty(0, dtype=tensor.dtype).set_(over, tensor.storage_offset(), tensor.shape, tensor.stride())
    return found.conj() if tensor.is_conj() else found


class HostArithmetic(TorchDispatchMode):
    """Computes on the host what the pretended device does not.

    Attributes:
        not_computed: operations without a CPU kernel, and how often they were called.
    """

    def __init__(self, *, floats: bool) -> None:
        """``floats``: compute everything."""
        super().__init__()
        self.not_computed: Counter[str] = Counter()
        self._floats = floats

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        if func.namespace in _NAMESPACES_LEFT_ALONE or func.overloadpacket.__name__ in _LEFT_ALONE or func.is_view:
            return result
        inputs, outputs = _tensors((args, kwargs)), _tensors(result)
        if not any(tensor.is_cuda for tensor in (*inputs, *outputs)) or any(map(is_fake, outputs)):
            return result
        if not (self._floats or _sizes_may_hang_on(func, args, kwargs, inputs, outputs)):
            return result
        try:
            computed = _on_host(func, args, kwargs)
        except NotImplementedError:  # torch's, where there is no kernel for CPUs
            self.not_computed[func.name()] += 1
            return result
        if computed is None:  # all of it in place
            return result
        places, shape = tree_flatten(result)
        found = tree_flatten(computed)[0]
        given = {id(tensor) for tensor in inputs}
        return tree_unflatten([_put(*pair, given) for pair in zip(places, found, strict=True)], shape)


def _tensors(values: Any) -> list[torch.Tensor]:
    return [value for value in tree_flatten(values)[0] if isinstance(value, torch.Tensor)]


def _sizes_may_hang_on(
    func: Any, args: Any, kwargs: Any, inputs: list[torch.Tensor], outputs: list[torch.Tensor]
) -> bool:
    """Whether an operation makes integers, or something small."""
    if func.name() in KERNELS:
        return False
    if sum(tensor.numel() for tensor in (*inputs, *outputs)) <= _SMALL_ELEMENTS:
        return True
    made = [*outputs, *(_written(func, args, kwargs) if func._schema.is_mutable else ())]
    return any(not tensor.is_floating_point() for tensor in made)


def _written(func: Any, args: Any, kwargs: Any) -> list[torch.Tensor]:
    """The arguments that an operation writes to."""
    given = []
    for place, argument in enumerate(func._schema.arguments):
        if argument.alias_info is not None and argument.alias_info.is_write:
            given += _tensors(args[place] if place < len(args) else kwargs.get(argument.name))
    return given


def _on_host(func: Any, args: Any, kwargs: Any) -> Any:
    host_args, host_kwargs = tree_map(_to_host, args), {key: tree_map(_to_host, kwargs[key]) for key in kwargs}
    host_kwargs.pop("pin_memory", None)
    if (own := KERNELS.get(func.name())) is not None:
        return own(by_name(func._schema, host_args, host_kwargs))
    return func(*host_args, **host_kwargs)


def _put(made: Any, found: Any, given: set[int]) -> Any:
    """The device's output with what the host has computed."""
    if not isinstance(made, torch.Tensor):
        return found
    if id(made) in given:  # in place: the host has written to it
        return made
    if made.shape != found.shape:  # its size hangs on values, which the device did not have
        made = torch.empty(found.shape, dtype=made.dtype, device=made.device)
    if made.numel():
        (host_view(made) if made.is_cuda else made).copy_(found)
    return made


def _to_host(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        return host_view(value) if value.is_cuda else value
    if isinstance(value, torch.device):
        return torch.device("cpu")
    return None if isinstance(value, torch.Generator) else value
