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
        inputs = [value for value in tree_flatten((args, kwargs))[0] if isinstance(value, torch.Tensor)]
        outputs, shape = tree_flatten(result)
        tensors = [*inputs, *(value for value in outputs if isinstance(value, torch.Tensor))]
        if not any(value.is_cuda for value in tensors) or not self._wanted(func, args, kwargs, outputs, tensors):
            return result
        return self._compute(func, args, kwargs, result)

    def _wanted(self, func: Any, args: Any, kwargs: Any, outputs: list[Any], tensors: list[torch.Tensor]) -> bool:
        if self._floats:
            return True
        if func.name() in KERNELS:
            return False
        if sum(value.numel() for value in tensors) <= _SMALL_ELEMENTS:
            return True
        made = [value for value in outputs if isinstance(value, torch.Tensor)]
        if func._schema.is_mutable:
            made += _mutated(func, args, kwargs)
        return any(not value.is_floating_point() for value in made)

    def _compute(self, func: Any, args: Any, kwargs: Any, result: Any) -> Any:
        host_args, host_kwargs = tree_map(_to_host, args), {key: _to_host_keyword(key, kwargs[key]) for key in kwargs}
        own = KERNELS.get(func.name())
        try:
            if own is not None:
                computed = own(by_name(func._schema, host_args, host_kwargs))
                if computed is None:
                    return result
            else:
                computed = func(*host_args, **host_kwargs)
        except NotImplementedError:  # torch's, where there is no kernel for CPUs
            self.not_computed[func.name()] += 1
            return result
        inputs = {id(value) for value in tree_flatten((args, kwargs))[0] if isinstance(value, torch.Tensor)}
        made, shape = tree_flatten(result)
        found = tree_flatten(computed)[0]
        if len(found) != len(made):
            self.not_computed[func.name()] += 1
            return result
        return tree_unflatten([_put(*pair, inputs) for pair in zip(made, found, strict=True)], shape)


def _put(made: Any, found: Any, inputs: set[int]) -> Any:
    """The device's output with what the host has computed."""
    if not isinstance(made, torch.Tensor):
        return found
    if id(made) in inputs:  # in place: the host has written to it
        return made
    if made.shape != found.shape:  # its size hangs on values, which the device did not have
        made = torch.empty(found.shape, dtype=made.dtype, device=made.device)
    if made.numel():
        (host_view(made) if made.is_cuda else made).copy_(found)
    return made


def _mutated(func: Any, args: Any, kwargs: Any) -> list[torch.Tensor]:
    given = []
    for place, argument in enumerate(func._schema.arguments):
        if argument.alias_info is not None and argument.alias_info.is_write:
            value = args[place] if place < len(args) else kwargs.get(argument.name)
            given += [one for one in tree_flatten(value)[0] if isinstance(one, torch.Tensor)]
    return given


def _to_host(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        return host_view(value) if value.is_cuda else value
    if isinstance(value, torch.device):
        return torch.device("cpu")
    return None if isinstance(value, torch.Generator) else value


def _to_host_keyword(key: str, value: Any) -> Any:
    return False if key == "pin_memory" else tree_map(_to_host, value)
