"""The dense part of an export as something to call: a ``torch.export`` program, or AOTInductor's machine code of it."""

from __future__ import annotations

import io
import operator
import platform
import warnings
from collections.abc import Callable

import torch

from dlrm.errors import ConfigError, ExportError
from dlrm.hardware.host import processor
from dlrm.inference.exported.manifest import RESTORE, CompiledRecord, Manifest
from dlrm.inference.exported.program_archive import UnfitProgramError, checked_archive, plain_archive

Dense = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
"""dense_BN and pooled_BX, float32 -> logits_BT, float32."""


def dump_program(program: torch.export.ExportedProgram) -> bytes:
    """A program as bytes, the same for the same program; see :mod:`dlrm.inference.exported.program_archive`.

    Raises:
        ConfigError: it has parts that are not read back.
    """
    written = io.BytesIO()
    torch.export.save(program, written)
    try:
        return plain_archive(written.getvalue())
    except UnfitProgramError as unfit:
        raise ConfigError.at("model.kind", f"cannot be exported: its program {unfit}") from None


def load_program(data: bytes, path: str) -> torch.export.ExportedProgram:
    """Read what :func:`dump_program` has written; nothing that would run code is read.

    Args:
        data: its bytes.
        path: how errors call the file.

    Raises:
        ExportError: it is something else.
    """
    try:
        archive = checked_archive(data)
    except UnfitProgramError as unfit:
        raise ExportError(path, str(unfit), hint=RESTORE) from None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch 2.12 warns of the way in which it reads tensors itself
            return torch.export.load(io.BytesIO(archive))
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
            given = torch.utils._pytree.tree_leaves(node.args)
            graph.output(torch.fx.map_arg(given[0] if len(given) == 1 else given, copies.__getitem__))
        elif node not in copies and node.target is not torch.ops.aten._assert_tensor_metadata.default:
            copies[node] = graph.node_copy(node, copies.__getitem__)
    bare = torch.fx.GraphModule(module, graph)
    run: Callable[..., torch.Tensor] = bare.forward

    def dense(dense_BN: torch.Tensor, pooled_BX: torch.Tensor) -> torch.Tensor:
        return run(dense_BN, pooled_BX, *weights)

    return dense


def require_answer(dense: Dense, manifest: Manifest, path: str) -> None:
    """Ask once with zeros, and see that the answer is such as the manifest says.

    Args:
        dense: a program.
        manifest: of its export.
        path: how errors call the program's file.

    Raises:
        ExportError: it is not.
    """
    rows = 32
    expected = (rows, len(manifest.tasks))
    try:
        with torch.no_grad():
            found = dense(torch.zeros(rows, len(manifest.dense)), torch.zeros(rows, manifest.pooled_columns))
    except Exception as error:
        raise ExportError(path, f"does not run ({_first_line(error)})", hint=RESTORE) from error
    if not isinstance(found, torch.Tensor) or found.shape != expected or found.dtype != torch.float32:
        raise ExportError(path, f"does not give logits of shape {list(expected)}", hint=RESTORE)


def load_compiled(path: str, record: CompiledRecord) -> Dense:
    """A package of AOTInductor. It is machine code: to load it is to run it.

    Args:
        path: the file.
        record: the machines that can run it.

    Raises:
        ExportError: this machine is none of them, or torch cannot load it.
    """
    hint = "export again on this kind of machine, or do without compiled code"
    if lacking := _lacking(record):
        raise ExportError(path, f"is compiled for {lacking}", hint=hint)
    try:
        loaded: Dense = torch._inductor.aoti_load_package(path)
    except Exception as error:
        raise ExportError(path, f"cannot be loaded ({_first_line(error)})", hint=hint) from error
    return loaded


def _lacking(record: CompiledRecord) -> str:
    """What this machine lacks to run machine code, in words; empty: nothing."""
    machine, capability = platform.machine(), torch.backends.cpu.get_cpu_capability()
    if machine != record.machine:
        return f"{record.machine}, and this machine is {machine}"
    if machine == "x86_64":
        missing = sorted(set(record.instructions) - set(processor("flags").split()))
        return f"processors with {', '.join(missing)}, which this one lacks" if missing else ""
    same = capability == record.capability
    return "" if same else f"processors with {record.capability}, and this one has {capability}"


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error).partition(chr(10))[0][:200]}"
