"""The dense part of an export in bfloat16 or int8.

The layers are those that the model names for lower precision (``lower_precision`` in its file), as the trainer's
``precision.dense`` takes them: the last layer of an MLP that gives logits stays float32, since rounded logits would tie.

- ``bf16``: weights and inputs of linear layers, and the products of interactions, in bfloat16.
- ``int8``: weights of linear layers as integers with a scale for each output; inputs as integers with a scale for each
  row, found as they come; their products are added up exactly, in int32. All else is float32, interactions' products too.

Integers of weights go to 63, not 127: where a CPU has no VNNI instructions (AVX2, first AVX-512), oneDNN adds up pairs of
products in 16 bits, and larger ones would be cut off without a word. With 63 every CPU gives the same sums. A few of an
output's weights are rounded the other way, so that their errors add up to nothing (as in SQuant, arXiv:2202.07471): inputs
after a ReLU have the same sign, and errors of one direction would shift all logits.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import nn

from dlrm.errors import ConfigError
from dlrm.inference.export.dense_program import DensePart, export_dense
from dlrm.inference.export.rebuilt import rebuilt_model
from dlrm.inference.exported.folder import ExportFolder
from dlrm.inference.exported.manifest import PROGRAM_NAME, DensePrecision, Manifest
from dlrm.inference.exported.program import dump_program
from dlrm.layers.heads.experts import ExpertLinear
from dlrm.models.base import Model
from dlrm.train.precision import lowered

_ATEN = torch.ops.aten
_PRODUCTS = (_ATEN.bmm.default, _ATEN.matmul.default, _ATEN.mm.default)
_LARGEST_INPUT, _LARGEST_WEIGHT = 127, 63
_TINY = 1e-30
_PREFIX = "model."


def lowered_dense(folder: ExportFolder, precision: DensePrecision) -> bytes:
    """The dense part of an export as a program in lower precision.

    Args:
        folder: of an export in float32.
        precision: of the result.

    Raises:
        ConfigError: the model names no part for it.
        ExportError: the export is damaged, or of a model that this version does not know.
    """
    if precision == "fp32":
        return folder.read(PROGRAM_NAME)
    model = rebuilt_model(folder, hint="quantise with the version that exported it")
    _unroll_experts(model)
    program = _export(folder.manifest, DensePart(model))
    graph = _Lowering(program, model, precision).lowered()
    return dump_program(_without_checks(_export(folder.manifest, graph)))


def _unroll_experts(model: Model) -> None:
    """Have experts compute in linear layers, which can be lowered one by one."""
    for parent in list(model.modules()):
        for name, child in parent.named_children():
            if isinstance(child, ExpertLinear):
                setattr(parent, name, child.unrolled())


def _export(manifest: Manifest, part: nn.Module) -> torch.export.ExportedProgram:
    return export_dense(part, dense_features=len(manifest.dense), pooled_columns=manifest.pooled_columns)


def _without_checks(program: torch.export.ExportedProgram) -> torch.export.ExportedProgram:
    """The same program without nodes that check the types that it has anyway, each time that it runs."""
    for node in program.graph.find_nodes(op="call_function", target=_ATEN._assert_tensor_metadata.default):
        program.graph.erase_node(node)
    program.graph_module.recompile()
    return program


class _Lowering:
    """Rewrites the graph of a dense part.

    Args:
        program: of :class:`DensePart`, just exported: its nodes say which module they are from.
        model: names the layers.
        precision: bf16 or int8.

    Raises:
        ConfigError: it names none.
    """

    def __init__(self, program: torch.export.ExportedProgram, model: Model, precision: DensePrecision) -> None:
        if not model.lower_precision:
            message = f"is {precision}, but {type(model).__name__} names no part for it (lower_precision in its file)"
            raise ConfigError.at("dense", message)
        modules = lowered(model)
        self._modules = {f"{_PREFIX}{name}" for name, module in model.named_modules() if module in modules}
        self._precision = precision
        self._graph_module = program.module(check_guards=False)
        self._graph = self._graph_module.graph

    def lowered(self) -> nn.Module:
        """The part with layers of :class:`Bf16Linear` or :class:`Int8Linear` in it."""
        for node in list(self._graph.nodes):
            if node.op != "call_function":
                continue
            if node.target is _ATEN.linear.default:
                self._lower_linear(node)
            elif node.target in _PRODUCTS and self._precision == "bf16":
                self._cast_inputs(node, torch.bfloat16 if self._is_lowered(node) else torch.float32)
        for node in self._graph.find_nodes(op="output"):
            self._cast_inputs(node, torch.float32)
        self._graph.eliminate_dead_code()
        return torch.fx.GraphModule(self._graph_module, self._graph)  # holds what the graph names, and no more

    def _lower_linear(self, node: torch.fx.Node) -> None:
        input_, weight = node.args[:2]
        bias = node.args[2] if len(node.args) > 2 else None
        assert isinstance(weight, torch.fx.Node)
        given = weight.op == "get_attr" and (bias is None or getattr(bias, "op", "") == "get_attr")
        weight_OI = self._tensor(weight) if given else None
        # A single output takes another path through oneDNN, which is not exact everywhere; and nothing is gained.
        if weight_OI is None or not self._is_lowered(node) or len(weight_OI) == 1:
            if self._precision == "bf16":
                self._cast_inputs(node, torch.float32)
            return
        bias_O = self._tensor(bias) if isinstance(bias, torch.fx.Node) else torch.zeros(len(weight_OI))
        kind = Bf16Linear if self._precision == "bf16" else Int8Linear
        name = f"linear_{sum(1 for _ in self._layers())}"
        self._graph_module.add_module(name, kind(weight_OI, bias_O))
        with self._graph.inserting_before(node):
            node.replace_all_uses_with(self._graph.call_module(name, (input_,)))
        self._graph.erase_node(node)

    def _layers(self) -> Iterator[nn.Module]:
        return (module for module in self._graph_module.children() if isinstance(module, Bf16Linear | Int8Linear))

    def _tensor(self, node: torch.fx.Node) -> torch.Tensor:
        owner, _, name = str(node.target).rpartition(".")
        tensor: torch.Tensor = getattr(self._graph_module.get_submodule(owner), name)
        return tensor.detach()

    def _is_lowered(self, node: torch.fx.Node) -> bool:
        stack = node.meta.get("nn_module_stack") or {}
        *_, (path, _) = stack.values() or (("", ""),)
        return path in self._modules

    def _cast_inputs(self, node: torch.fx.Node, dtype: torch.dtype) -> None:
        with self._graph.inserting_before(node):
            node.args = torch.fx.map_arg(node.args, lambda arg: self._graph.call_function(_ATEN.to.dtype, (arg, dtype)))


class Bf16Linear(nn.Module):
    """A linear layer in bfloat16, its weights stored so.

    Args:
        weight_OI: float32 (outputs, inputs); bias_O: float32.
    """

    weight: torch.Tensor
    bias: torch.Tensor

    def __init__(self, weight_OI: torch.Tensor, bias_O: torch.Tensor) -> None:
        super().__init__()
        self.register_buffer("weight", weight_OI.bfloat16())
        self.register_buffer("bias", bias_O.bfloat16())

    def forward(self, x_BI: torch.Tensor) -> torch.Tensor:
        """(B, inputs) -> bfloat16 (B, outputs)."""
        return nn.functional.linear(x_BI.bfloat16(), self.weight, self.bias)


class Int8Linear(nn.Module):
    """A linear layer whose products are of integers.

    Args:
        weight_OI: float32 (outputs, inputs); bias_O: float32.
    """

    weight: torch.Tensor
    scale: torch.Tensor
    bias: torch.Tensor

    def __init__(self, weight_OI: torch.Tensor, bias_O: torch.Tensor) -> None:
        super().__init__()
        scale_O1 = _scale(weight_OI, _LARGEST_WEIGHT)
        self.register_buffer("weight", rounded_in_sum(weight_OI / scale_O1).to(torch.int8))
        self.register_buffer("scale", scale_O1.flatten())
        self.register_buffer("bias", bias_O.clone())

    def forward(self, x_BI: torch.Tensor) -> torch.Tensor:
        """float32 (B, inputs) -> float32 (B, outputs); dimensions between the two are more rows."""
        if x_BI.dim() > 2:
            rows: torch.Tensor = self(x_BI.flatten(0, -2))
            more_rows: torch.Tensor = rows.unflatten(0, x_BI.shape[:-1])
            return more_rows
        scale_B1 = _scale(x_BI, _LARGEST_INPUT)
        integers_BI = (x_BI / scale_B1).round().to(torch.int8)
        sums_BO = torch._int_mm(integers_BI, self.weight.t())
        return torch.addcmul(self.bias, sums_BO.float() * scale_B1, self.scale)


def _scale(x_RC: torch.Tensor, largest: int) -> torch.Tensor:
    """What a unit of each row is, float32 (R, 1), if its largest number is to be so many."""
    return x_RC.abs().amax(1, keepdim=True).clamp(min=_TINY) / largest


def rounded_in_sum(x_RC: torch.Tensor) -> torch.Tensor:
    """Numbers as integers beside them, so chosen that those of a row add up to its sum within one half.

    Of all numbers that are rounded up too many of (or down), those nearest to the middle go the other way.

    Args:
        x_RC: float (R, C).
    """
    rounded_RC = x_RC.round()
    errors_RC = rounded_RC - x_RC
    excess_R1 = errors_RC.sum(1, keepdim=True).round()
    place_RC = (errors_RC * excess_R1.sign()).argsort(dim=1, descending=True, stable=True).argsort(dim=1)
    return rounded_RC - excess_R1.sign() * (place_RC < excess_R1.abs())
