"""The dense part of an export as something to call: a ``torch.export`` program, or AOTInductor's machine code of it."""

from __future__ import annotations

import io
import operator
from collections.abc import Callable

import torch

from dlrm.errors import ExportError
from dlrm.inference.exported.manifest import RESTORE
from dlrm.inference.exported.program_archive import fault_in_archive, plain_archive

Dense = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
"""dense_BN and pooled_BX, float32 -> logits_BT, float32."""


def dump_program(program: torch.export.ExportedProgram) -> bytes:
    """A program as bytes, the same for the same program; see :mod:`dlrm.inference.exported.program_archive`."""
    written = io.BytesIO()
    torch.export.save(program, written)
    return plain_archive(written.getvalue())


def load_program(data: bytes, path: str) -> torch.export.ExportedProgram:
    """Read what :func:`dump_program` has written; nothing that would run code is read.

    Args:
        data: its bytes.
        path: how errors call the file.

    Raises:
        ExportError: it is something else.
    """
    if problem := fault_in_archive(data):
        raise ExportError(path, problem, hint=RESTORE)
    try:
        return torch.export.load(io.BytesIO(data))
    except Exception as error:
        problem = f"torch {torch.__version__} cannot read this program ({_first_line(error)})"
        raise ExportError(path, problem, hint="export again with this version of torch") from error


def as_function(program: torch.export.ExportedProgram) -> Dense:
    """The program as a function of tensors. Shapes are not checked: those of all calls follow from the manifest.

    The module that torch makes of a program flattens its arguments by rules for any containers, checks what it gets, and
    looks up each weight by the names of all modules above it, in each call. With 32 rows that takes longer than the model.
    Here the same operators are called in the same order, on weights that were looked up once.
    """
    module = program.module(check_guards=False)
    graph = torch.fx.Graph()
    weights: list[torch.Tensor] = []
    copies: dict[torch.fx.Node, torch.fx.Node] = {}
    for node in module.graph.find_nodes(op="placeholder"):
        copies[node] = graph.placeholder(node.name)
    for node in module.graph.find_nodes(op="get_attr"):
        copies[node] = graph.placeholder(f"weight_{len(weights)}")
        weights.append(operator.attrgetter(node.target)(module).detach())
    for node in module.graph.nodes:
        if node.op == "output":
            (logits,) = torch.utils._pytree.tree_leaves(node.args)
            graph.output(copies[logits])
        elif node not in copies and node.target is not torch.ops.aten._assert_tensor_metadata.default:
            copies[node] = graph.node_copy(node, copies.__getitem__)
    bare = torch.fx.GraphModule(module, graph)
    run: Callable[..., torch.Tensor] = bare.forward

    def dense(dense_BN: torch.Tensor, pooled_BX: torch.Tensor) -> torch.Tensor:
        return run(dense_BN, pooled_BX, *weights)

    return dense


def load_compiled(path: str) -> Dense:
    """A package of AOTInductor. It is machine code: to load it is to run it.

    Raises:
        ExportError: torch cannot load it.
    """
    try:
        loaded: Dense = torch._inductor.aoti_load_package(path)
    except Exception as error:
        hint = "export again on this kind of machine, or do without compiled code"
        raise ExportError(path, f"cannot be loaded ({_first_line(error)})", hint=hint) from error
    return loaded


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error).partition(chr(10))[0][:200]}"
