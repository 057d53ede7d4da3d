"""What a program may consist of: torch's JSON of an exported program, as far as the dense part of a model needs it.

Reading that JSON, torch 2.13 imports modules that tree specifications name, writes names of inputs into Python code that
it executes, hands expressions to sympy, which evaluates them, and takes any attribute of torch for an operator that is
called so. Here every text has its form and every key its place; anything else is refused.

The names of the keys are those of ``torch/_export/serde/schema.py``.
"""

from __future__ import annotations

import ast
import json
import re
from typing import Annotated, Any, Literal, Self

import torch
from pydantic import AfterValidator, Field, model_validator

from dlrm.checkpoint.manifest import Record

_LONGEST_EXPRESSION = 300
_MOST_NODES = 100_000

_OPERATOR = re.compile(r"torch\.ops\.aten\.([a-z]\w*|_assert_tensor_metadata|_to_copy|_int_mm)\.(\w+)", re.ASCII)
_ARITHMETIC = re.compile(r"_operator\.(add|sub|mul|floordiv|mod|neg|eq|ne|lt|le|gt|ge|getitem)")
_NOT_CALLED = {"empty", "empty_like", "empty_strided", "empty_permuted", "new_empty", "new_empty_strided", "as_strided"}
"""Operators of ATen that show memory as it was."""

_SYMBOL = re.compile(r"[su]\d{1,4}", re.ASCII)
_FUNCTIONS = {"Symbol", "Integer", "Add", "Mul", "FloorDiv", "Mod"}
_ASSUMPTIONS = {"positive", "nonnegative", "integer"}

_LEAF: dict[str, Any] = {"type": None, "context": None, "children_spec": []}
_TWO = {"type": "builtins.tuple", "context": "null", "children_spec": [_LEAF, _LEAF]}
_NO_KEYWORDS = {"type": "builtins.dict", "context": "[]", "children_spec": []}
_TAKES = [1, {"type": "builtins.tuple", "context": "null", "children_spec": [_TWO, _NO_KEYWORDS]}]
_GIVES = [1, _LEAF]


def _operator(target: str) -> str:
    if not (_ARITHMETIC.fullmatch(target) or _is_pure(target)):
        raise ValueError(f"{target[:80]!a} is no operator that a program may call")
    return target


def _is_pure(target: str) -> bool:
    """Whether a name is that of an operator of ATen that changes none of its arguments and takes no text."""
    found = _OPERATOR.fullmatch(target)
    if found is None or found[1] in _NOT_CALLED:
        return False
    packet = getattr(torch.ops.aten, found[1], None)
    if not isinstance(packet, torch._ops.OpOverloadPacket) or found[2] not in packet.overloads():
        return False
    schema = getattr(packet, found[2])._schema
    return not schema.is_mutable and not any("str" in str(argument.type) for argument in schema.arguments)


def _expression(text: str) -> str:
    try:
        arithmetic = len(text) <= _LONGEST_EXPRESSION and _is_arithmetic(ast.parse(text, mode="eval").body)
    except (SyntaxError, RecursionError, MemoryError):
        arithmetic = False
    if not arithmetic:
        raise ValueError(f"{text[:80]!a} is no arithmetic with sizes")
    return text


def _is_arithmetic(node: ast.AST) -> bool:
    """Whether an expression is symbols and integers, added, multiplied and divided by functions."""
    match node:
        case ast.Name(id=name):
            return bool(_SYMBOL.fullmatch(name))
        case ast.Constant(value=int() as value):
            return type(value) is int and value < 2**48
        case ast.UnaryOp(op=ast.USub(), operand=inner):
            return _is_arithmetic(inner)
        case ast.Call(func=ast.Name(id="Symbol"), args=[ast.Constant(value=str() as name)], keywords=words):
            return bool(_SYMBOL.fullmatch(name)) and all(
                word.arg in _ASSUMPTIONS and isinstance(word.value, ast.Constant) and word.value.value is True
                for word in words
            )
        case ast.Call(func=ast.Name(id=name), args=inner, keywords=[]):
            return name in _FUNCTIONS and all(map(_is_arithmetic, inner))
        case _:
            return False


def _tree(expected: Any) -> AfterValidator:
    def check(text: str) -> str:
        if len(text) > 1000 or json.loads(text) != expected:
            raise ValueError("is not that of two tensors in and one out")
        return json.dumps(expected)

    return AfterValidator(check)


Identifier = Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]{0,300}$")]
Path = Annotated[str, Field(pattern=r"^[A-Za-z0-9_]{1,100}(\.[A-Za-z0-9_]{1,100}){0,30}$")]
SymbolName = Annotated[str, Field(pattern=r"^[su][0-9]{1,4}$")]
Operator = Annotated[str, AfterValidator(_operator)]
Expression = Annotated[str, AfterValidator(_expression)]
Integer = Annotated[int, Field(ge=-(2**63), lt=2**63)]
Float = float | Literal["Infinity", "-Infinity", "NaN"]
Enumerated = Annotated[int, Field(ge=0, lt=64)]


class _OneOf(Record):
    """Exactly one of its keys is there."""

    @model_validator(mode="after")
    def _one(self) -> Self:
        if len(self.model_fields_set) != 1 or getattr(self, next(iter(self.model_fields_set))) is None:
            raise ValueError("must be of exactly one kind")
        return self


class Device(Record):
    """Where a tensor is."""

    type: Literal["cpu"]
    index: Literal[0] | None = None


class Hint(_OneOf):
    """The value that a symbol had when the program was made."""

    as_int: Integer | None = None
    as_bool: bool | None = None


class Symbolic(Record):
    """A size that is computed."""

    expr_str: Expression
    hint: Hint | None = None


class Size(_OneOf):
    """A size, or where something begins."""

    as_expr: Symbolic | None = None
    as_int: Integer | None = None


class Truth(_OneOf):
    """A comparison of sizes."""

    as_expr: Symbolic | None = None
    as_bool: bool | None = None


class TensorMeta(Record):
    """What is known of a tensor in the graph."""

    dtype: Enumerated
    sizes: tuple[Size, ...]
    requires_grad: bool
    device: Device
    strides: tuple[Size, ...]
    storage_offset: Size
    layout: Literal[7]


class Named(Record):
    """A tensor in the graph, by its name."""

    name: Identifier


class SizeArgument(_OneOf):
    """A size that an operator is given."""

    as_name: Identifier | None = None
    as_int: Integer | None = None


class OptionalTensor(_OneOf):
    """A tensor, or none."""

    as_tensor: Named | None = None
    as_none: bool | None = None


class Argument(_OneOf):
    """What an operator is given or gives: no text, no graph, no object, no function."""

    as_none: bool | None = None
    as_tensor: Named | None = None
    as_tensors: tuple[Named, ...] | None = None
    as_int: Integer | None = None
    as_ints: tuple[Integer, ...] | None = None
    as_float: Float | None = None
    as_floats: tuple[Float, ...] | None = None
    as_bool: bool | None = None
    as_bools: tuple[bool, ...] | None = None
    as_sym_int: SizeArgument | None = None
    as_sym_ints: tuple[SizeArgument, ...] | None = None
    as_scalar_type: Enumerated | None = None
    as_memory_format: Enumerated | None = None
    as_layout: Literal[7] | None = None
    as_device: Device | None = None
    as_optional_tensor: OptionalTensor | None = None
    as_optional_tensors: tuple[OptionalTensor, ...] | None = None


class NamedArgument(Record):
    """An operator's argument."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z_]?[A-Za-z0-9_]{0,100}$")]
    arg: Argument
    kind: Enumerated | None = None


class Node(Record):
    """A call of an operator."""

    target: Operator
    inputs: tuple[NamedArgument, ...]
    outputs: tuple[Argument, ...]
    metadata: Annotated[dict[str, str], Field(max_length=0)]
    is_hop_single_tensor_return: bool | None = None
    name: Identifier | None = None


class Graph(Record):
    """Calls of operators, in order."""

    inputs: tuple[Argument, ...]
    outputs: tuple[Argument, ...]
    nodes: Annotated[tuple[Node, ...], Field(max_length=_MOST_NODES)]
    tensor_values: dict[Identifier, TensorMeta]
    sym_int_values: dict[Identifier, Size]
    sym_bool_values: dict[Identifier, Truth]
    sym_float_values: Annotated[dict[Identifier, bool], Field(max_length=0)] = Field(default_factory=dict)
    custom_obj_values: Annotated[dict[Identifier, bool], Field(max_length=0)] = Field(default_factory=dict)
    is_single_tensor_return: Literal[False] = False


class UserInput(Record):
    """One of the two tensors that the program takes, or the one that it gives."""

    arg: Argument


class Parameter(Record):
    """A weight."""

    arg: Named
    parameter_name: Path


class Buffer(Record):
    """A tensor that is not trained."""

    arg: Named
    buffer_name: Path
    persistent: bool


class TensorConstant(Record):
    """A tensor that was made while the program was."""

    arg: Named
    tensor_constant_name: Path


class InputSpec(_OneOf):
    """What a tensor at the start of the graph is."""

    user_input: UserInput | None = None
    parameter: Parameter | None = None
    buffer: Buffer | None = None
    tensor_constant: TensorConstant | None = None


class OutputSpec(Record):
    """What a tensor at its end is."""

    user_output: UserInput


class Signature(Record):
    """What goes in and comes out."""

    input_specs: tuple[InputSpec, ...]
    output_specs: tuple[OutputSpec]


class CallSignature(Record):
    """How the program is called."""

    inputs: Annotated[tuple[bool, ...], Field(max_length=0)]
    outputs: Annotated[tuple[bool, ...], Field(max_length=0)]
    in_spec: Annotated[str, _tree(_TAKES)]
    out_spec: Annotated[str, _tree(_GIVES)]
    forward_arg_names: tuple[Identifier, Identifier] | None = None


class Call(Record):
    """The only call that is kept: of the whole program."""

    fqn: Literal[""]
    signature: CallSignature


class GraphModule(Record):
    """The graph with what goes in and comes out."""

    graph: Graph
    signature: Signature
    module_call_graph: tuple[Call]
    metadata: Annotated[dict[str, str], Field(max_length=0)] = Field(default_factory=dict)
    treespec_namedtuple_fields: Annotated[dict[str, str], Field(max_length=0)] = Field(default_factory=dict)


class Range(Record):
    """Least and largest value of a symbol."""

    min_val: Integer | None
    max_val: Integer | None


class SchemaVersion(Record):
    """Of the JSON."""

    major: Integer
    minor: Integer


class Program(Record):
    """(dense_BN, pooled_BX) -> logits_BT."""

    graph_module: GraphModule
    opset_version: dict[Identifier, Integer]
    range_constraints: dict[SymbolName, Range]
    schema_version: SchemaVersion
    verifiers: tuple[Literal["TRAINING", "ATEN"], ...] = ()
    torch_version: Annotated[str, Field(pattern=r"^[A-Za-z0-9.+]{1,60}$")]
    guards_code: Annotated[tuple[str, ...], Field(max_length=0)] = ()


class FixedSize(Record):
    """A size that is known."""

    as_int: Annotated[int, Field(ge=0, lt=2**40)]


class StoredTensorMeta(Record):
    """Of a tensor whose bytes are in the archive: row after row, and all of its member."""

    dtype: Enumerated
    sizes: tuple[FixedSize, ...]
    requires_grad: bool
    device: Device
    strides: tuple[FixedSize, ...]
    storage_offset: FixedSize
    layout: Literal[7]


class Payload(Record):
    """Which member of the archive holds a tensor."""

    path_name: Annotated[str, Field(pattern=r"^(weight|tensor)_[0-9]{1,6}$")]
    is_param: bool
    use_pickle: Literal[False]
    tensor_meta: StoredTensorMeta


class Payloads(Record):
    """Which member of the archive holds which tensor."""

    config: dict[Path, Payload]
