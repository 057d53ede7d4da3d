"""What every section of the configuration shares: frozen, no unknown keys, and a few constrained types.

This package is free of torch, so that ``--help``, launchers and error messages start within a fraction of a second.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, ClassVar, TypeVar

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field
from pydantic.fields import FieldInfo

from dlrm.format import escaped
from dlrm.schema import fault_in_name

_T = TypeVar("_T")
_ADVANCED = "advanced"
Advanced = Annotated[_T, _ADVANCED]
"""The type of an option that few need: ``--help-all`` shows it, ``--help`` does not."""


class Section(BaseModel):
    """A frozen group of options. Field descriptions are what ``--help`` prints."""

    file_hint: ClassVar[str] = "give --config the path of a YAML file"
    """What to do where the file that holds such a section cannot be read."""
    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        validate_default=True,
        allow_inf_nan=False,
        coerce_numbers_to_str=True,
        use_attribute_docstrings=True,
        protected_namespaces=(),
    )


def is_advanced(field: FieldInfo) -> bool:
    """Whether a field is declared as :data:`Advanced`."""
    return _ADVANCED in field.metadata


def _split_commas(value: object) -> object:
    """``512,256,64`` on a command line is a list, as users of other DLRM trainers write it."""
    return [part.strip() for part in value.split(",")] if isinstance(value, str) else value


def _single_to_list(value: object) -> object:
    return [value] if isinstance(value, str | int | float) else value


def _null_to_list(value: object) -> object:
    """Nothing at all, as in ``--data.dense ''``, is a list of nothing."""
    return [] if value is None else value


def _column(name: str) -> str:
    """Any name that a column of a file can have."""
    if fault := fault_in_name(name):
        raise ValueError(f"column {escaped(name, 40)} {fault}")
    return name


def _no_bool(value: object) -> object:
    if isinstance(value, bool):
        raise ValueError("is true/false where a number is needed")
    return value


def _not_empty(value: object) -> object:
    if isinstance(value, list | tuple) and not value:
        raise ValueError("is empty; give at least one value")
    return value


Number = BeforeValidator(_no_bool)
LARGEST_INT = 2**63 - 1  # what torch, numpy and fbgemm count with
PositiveInt = Annotated[int, Number, Field(gt=0, le=LARGEST_INT)]
NonNegativeInt = Annotated[int, Number, Field(ge=0, le=LARGEST_INT)]
PositiveFloat = Annotated[float, Number, Field(gt=0)]
NonNegativeFloat = Annotated[float, Number, Field(ge=0)]
Fraction = Annotated[float, Number, Field(ge=0, lt=1)]
Share = Annotated[float, Number, Field(gt=0, lt=1)]
Size = Annotated[int, Number, Field(gt=0, le=2**40)]  # beyond it, sizes of tables overflow what torch counts with
AS_LIST = (BeforeValidator(_not_empty), BeforeValidator(_single_to_list), BeforeValidator(_split_commas))  # last first
Sizes = Annotated[tuple[Size, ...], *AS_LIST]
SizesIfAny = Annotated[tuple[Size, ...], BeforeValidator(_null_to_list), *AS_LIST[1:]]
Names = Annotated[tuple[str, ...], *AS_LIST]
NamesIfAny = Annotated[tuple[str, ...], BeforeValidator(_null_to_list), *AS_LIST[1:]]
Column = Annotated[str, AfterValidator(_column)]
Columns = Annotated[tuple[Column, ...], *AS_LIST]
ColumnsIfAny = Annotated[tuple[Column, ...], BeforeValidator(_null_to_list), *AS_LIST[1:]]


def check_tasks(names: Sequence[str]) -> None:
    """See that no two tasks have one name.

    Raises:
        ValueError: names it.
    """
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(f"task {escaped(twice[0])} is named twice")
