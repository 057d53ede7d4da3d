"""What options there are, read off the sections themselves: for ``--help``, for suggestions and for printing."""

from __future__ import annotations

import inspect
import textwrap
import types
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from dlrm.config.base import Section, is_advanced
from dlrm.format import counted

_FEW = 3


@dataclass(frozen=True)
class Option:
    """One option as ``--help`` shows it.

    Attributes:
        path: dotted path; variant: the kind it belongs to (empty outside of variants).
        type_name, default, meaning: for people; about: what its section is for.
        advanced: whether few need it.
    """

    path: str
    variant: str
    type_name: str
    default: str
    meaning: str
    about: str
    advanced: bool = False


@cache
def options(root: type[Section]) -> tuple[Option, ...]:
    """Every option of every variant, in the order of the sections."""
    return tuple(_of_section(root, "", ""))


def switches(root: type[Section]) -> dict[str, bool]:
    """Options that are true or false, by path: whether of every kind that has them (``data.id_weights`` is of one kind)."""
    types: dict[str, set[str]] = {}
    for option in options(root):
        types.setdefault(option.path, set()).add(option.type_name)
    return {path: len(found) == 1 for path, found in types.items() if "true|false" in found}


def help_text(root: type[Section], width: int = 110, *, everything: bool = False, without: Collection[str] = ()) -> str:
    """Options with type, default and meaning, one block a section and variant.

    Advanced ones are only in ``everything``, and those of the sections ``without`` nowhere.
    """
    told = [option for option in _each_once(options(root)) if option.path.partition(".")[0] not in without]
    lines: list[str] = []
    heading, introduced = "", set()
    shown = [option for option in told if everything or not option.advanced]
    for option in sorted(shown, key=lambda option: "." in option.path):  # those outside of sections first
        section = option.path.rpartition(".")[0]
        title = f"{section} ({option.variant})" if option.variant else section
        if title != heading:
            lines += ["", title]
            heading = title
        if option.about and title not in introduced:
            introduced.add(title)
            lines += textwrap.wrap(option.about, width, initial_indent=" " * 4, subsequent_indent=" " * 4)
        default = f" (default: {option.default})" if option.default else " (required)"
        lines.append(f"  --{option.path} {option.type_name}")
        lines += textwrap.wrap(option.meaning + default, width, initial_indent=" " * 8, subsequent_indent=" " * 8)
    if left := len({option.path for option in told}) - len({option.path for option in shown}):
        lines += ["", f"{counted(left, 'more option')} that few need: --help-all shows them"]
    return "\n".join(lines).strip("\n")


def _each_once(every: Sequence[Option]) -> Iterator[Option]:
    """What most kinds of one thing have alike is one option of them all, and is told once.

    Few kinds that have an option alike keep it each for itself, so that all options of a kind stand together.
    """
    kinds = {option.path: option.type_name.count("|") + 1 for option in every if option.path.endswith(".kind")}
    alike: dict[tuple[str, ...], list[Option]] = {}
    for option in every:
        alike.setdefault((option.path, option.type_name, option.default, option.meaning), []).append(option)
    told: set[Option] = set()
    for option in every:
        found = alike[(option.path, option.type_name, option.default, option.meaning)]
        variants = list(dict.fromkeys(other.variant for other in found))
        around = _kinds_around(option.path, kinds)
        if 1 < len(variants) == around:
            option = replace(option, variant="", about="")
        elif len(variants) > max(_FEW, around // 2):
            names = ", ".join(variant.removeprefix("kind ") for variant in variants)
            option = replace(option, variant=f"kinds {names}", about="")
        if option not in told:
            told.add(option)
            yield option


def _kinds_around(path: str, kinds: Mapping[str, int]) -> int:
    """How many kinds there are of the nearest thing around an option that has kinds."""
    while path:
        path = path.rpartition(".")[0]
        if f"{path}.kind" in kinds:
            return kinds[f"{path}.kind"]
    return 1


def defaults(root: type[Section]) -> dict[str, Any]:
    """What is not required, as nested dicts and lists."""
    return {
        name: to_plain(field.get_default(call_default_factory=True))
        for name, field in root.model_fields.items()
        if not field.is_required()
    }


def to_plain(value: Any) -> Any:
    """A section as nested dicts and lists that YAML can hold."""
    if isinstance(value, Section):
        return {name: to_plain(getattr(value, name)) for name in type(value).model_fields}
    if isinstance(value, dict):
        return {key: to_plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [to_plain(item) for item in value]
    return value


def flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mappings as one, by dotted path; an empty mapping inside is a value."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        path = f"{prefix}{key}"
        flat |= flatten(value, f"{path}.") if isinstance(value, Mapping) and value else {path: value}
    return flat


def _of_section(section: type[Section], prefix: str, variant: str) -> Iterator[Option]:
    for name, field in section.model_fields.items():
        path = f"{prefix}{name}"
        sections = sections_in(field.annotation)
        if get_origin(_strip(field.annotation)) is dict:
            yield _leaf(path, field, variant, section)
            for inner in sections:
                yield from _of_section(inner, f"{path}.<name>.", variant)
        elif len(sections) > 1:
            yield _choice(path, field, sections)
            for inner in sections:
                yield from _of_section(inner, f"{path}.", f"kind {_kind(inner)}")
        elif sections:
            yield from _of_section(sections[0], f"{path}.", variant)
        elif name != "kind":
            yield _leaf(path, field, variant, section)


def _leaf(path: str, field: FieldInfo, variant: str, section: type[Section]) -> Option:
    default = "" if field.is_required() else _shown(field)
    meaning, about = " ".join((field.description or "").split()), " ".join((inspect.getdoc(section) or "").split())
    return Option(path, variant, _type_name(field.annotation), default, meaning, about, is_advanced(field))


def _choice(path: str, field: FieldInfo, sections: list[type[Section]]) -> Option:
    """The ``kind`` of a variant, which is a field of every section among which it chooses."""
    default = field.get_default(call_default_factory=True)
    kind = _kind(type(default)) if isinstance(default, Section) else ""
    return Option(f"{path}.kind", "", "|".join(map(_kind, sections)), kind, f"Which kind of {path}.", "")


def _kind(section: type[Section]) -> str:
    return str(section.model_fields["kind"].default)


def _shown(field: FieldInfo) -> str:
    value = field.get_default(call_default_factory=True)
    if value is PydanticUndefined:
        return ""
    if value is None or value in ("", ()):
        return "none"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple):
        text = ",".join(str(item) for item in value)
        return text if len(text) <= 60 else f"{len(value)} values"
    return str(value)


def _strip(annotation: Any) -> Any:
    return _strip(get_args(annotation)[0]) if get_origin(annotation) is Annotated else annotation


def sections_in(annotation: Any) -> list[type[Section]]:
    """The sections that a field of this type may hold: several for a variant, none for a plain option."""
    annotation = _strip(annotation)
    if isinstance(annotation, type) and issubclass(annotation, Section):
        return [annotation]
    if get_origin(annotation) in (Union, types.UnionType, dict):
        return [section for part in get_args(annotation) for section in sections_in(part)]
    return []


def _type_name(annotation: Any) -> str:
    annotation = _strip(annotation)
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Literal:
        return "|".join(str(value) for value in arguments)
    if origin in (Union, types.UnionType):
        return "|".join(_type_name(part) for part in arguments if part is not types.NoneType)
    if origin is tuple:
        return f"{_type_name(arguments[0])},..."
    if origin is dict:
        return f"{{name: {_type_name(arguments[1])}}}"
    return {int: "INT", float: "FLOAT", str: "TEXT", bool: "true|false"}.get(annotation, "SECTION")
