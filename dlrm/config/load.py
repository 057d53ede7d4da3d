"""From a YAML file and command-line arguments to a command's configuration, with every mistake at once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import ValidationError
from pydantic_core import ErrorDetails

from dlrm.config.base import Section
from dlrm.config.describe import defaults, options, sections_in, switches, to_plain
from dlrm.config.dialect import Dumper
from dlrm.config.layers import COMMAND_LINE, Layer, command_line_layer, file_layer, merge
from dlrm.config.root import Config
from dlrm.errors import ConfigError, ConfigProblem
from dlrm.format import did_you_mean, nearest, printable

SHORT = {"resume=job": "resume.job=true", "resume": "resume.checkpoint"}
"""Names of options of training, or of one with a value, that are short for others on the command line."""
_LONGEST_SHOWN = 60
NOTHING = Layer({})

Root = TypeVar("Root", bound=Section)


def load_config(path: str | Path | None = None, arguments: Sequence[str] = ()) -> Config:
    """The configuration of a training run; see :func:`load_options`."""
    return load_options(Config, path, arguments)


def load_options(
    root: type[Root], path: str | Path | None = None, arguments: Sequence[str] = (), *, base: Layer = NOTHING
) -> Root:
    """Read a configuration: defaults < base < file < command line.

    Args:
        root: what the configuration consists of.
        path: YAML file; none: defaults only.
        arguments: ``--section.key value`` or ``section.key=value`` words.
        base: of what the rest is changed.

    Raises:
        ConfigError: every mistake that can be found without looking at data or devices.
    """
    file = file_layer(Path(path), root.file_hint) if path is not None else Layer({})
    flags = command_line_layer(
        arguments, switches(root), {name: path for name, path in SHORT.items() if root is Config}
    )
    if file.problems and not file.values:  # which options there are depends on what the file would have said
        raise ConfigError([*file.problems, *flags.problems])
    merged = Layer(defaults(root))
    for layer in (base, file, flags):
        merged = merge(merged, layer)
        merged = replace(merged, values=_with_kinds(root, merged.values))
    problems = list(merged.problems)
    try:
        config = root.model_validate(merged.values)
    except ValidationError as error:
        problems += _problems(error, merged, root)
    except UnicodeEncodeError as error:  # pydantic cannot pass on a message that quotes bytes which are no UTF-8
        problems.append(ConfigProblem("", "", error.object))
    if problems:
        raise ConfigError(problems)
    return config


def dump_config(config: Section) -> str:
    """The resolved configuration as YAML, fit for a terminal; loading it gives the same configuration."""
    plain = to_plain(config)

    def dump(*, allow_unicode: bool) -> str:
        options: dict[str, Any] = {"sort_keys": False, "width": 120, "default_flow_style": None}
        return str(yaml.dump(plain, Dumper=Dumper, allow_unicode=allow_unicode, **options))

    text = dump(allow_unicode=True)
    return text if printable(text, keep="\n") == text else dump(allow_unicode=False)


def _with_kinds(section: type[Section], values: Mapping[str, Any]) -> dict[str, Any]:
    """``values`` of ``section`` where every variant that is given without its ``kind`` has the default's."""
    completed = dict(values)
    for name, field in section.model_fields.items():
        inner, value = sections_in(field.annotation), values.get(name)
        if not inner or not isinstance(value, dict):
            continue
        default = field.get_default(call_default_factory=True)
        if len(inner) > 1 and isinstance(default, Section) and "kind" not in value:
            value = {"kind": to_plain(default)["kind"], **value}
        chosen = [kind for kind in inner if len(inner) == 1 or kind.model_fields["kind"].default == value.get("kind")]
        completed[name] = _with_kinds(chosen[0], value) if chosen else value
    return completed


def _problems(error: ValidationError, merged: Layer, root: type[Section]) -> list[ConfigProblem]:
    """One problem a key: of an option that may be of several types, pydantic says why it is none of them one by one."""
    by_key: dict[str, ConfigProblem] = {}
    for detail in error.errors(include_url=False):
        key, variant = _dotted(detail["loc"], merged.values)
        if detail["type"] == "union_tag_invalid":
            key += ".kind"
        message = _message(detail, key, variant, root)
        if key in by_key:
            message = message.removeprefix(f"is {_shown(detail['input'])}, ")
            message = f"{by_key[key].message}; or {message}"
        by_key[key] = ConfigProblem(key=key, origin=_origin(key, merged), message=message)
    return list(by_key.values())


def _dotted(location: tuple[int | str, ...], values: Any) -> tuple[str, str]:
    """The dotted path of pydantic's location, without the tags it inserts, and the innermost variant among those.

    ``("optim", "sparse", "sgd", "lr")`` is ``optim.sparse.lr`` of variant ``sgd``; ``("data", "dense", "missing",
    "float")`` is ``data.dense.missing``.
    """
    path, variant = "", ""
    node = values
    for part in location:
        if isinstance(part, int):
            path += f"[{part}]"
            node = node[part] if isinstance(node, list | tuple) and part < len(node) else None
        elif not isinstance(node, dict):
            break
        elif part not in node and node.get("kind") == part:
            variant = part
        else:
            path += f".{part}" if path else part
            node = node.get(part)
    return path, variant


def _origin(key: str, merged: Layer) -> str:
    """Where the value or something in it was written; for one left out, where what chose or holds its section was."""
    path = key.split("[", 1)[0]
    origins = {option: origin for option, origin in merged.origins.items() if f"{option}.".startswith(f"{path}.")}
    if COMMAND_LINE in origins.values():  # the last word on a section that does not hold together
        return COMMAND_LINE
    while path:
        for place in (f"{path}.kind", path):
            if place in merged.origins:
                return merged.origins[place]
        path = path.rpartition(".")[0]
    return ""


def _message(detail: ErrorDetails, key: str, variant: str, root: type[Section]) -> str:
    kind, context, value = detail["type"], detail.get("ctx", {}), detail.get("input")
    if kind == "extra_forbidden":
        return _unknown(key, variant, root)
    if kind == "missing":
        return "is required and was not given"
    if kind == "value_error":
        return str(context["error"])
    if kind in ("union_tag_invalid", "literal_error"):
        given = _shown(value.get("kind") if isinstance(value, dict) else value)
        expected = str(context.get("expected_tags") or context["expected"]).replace(" or ", ", ")
        choices = [choice.strip(" '") for choice in expected.split(",")]
        hint = did_you_mean(given.strip("'"), choices, cutoff=0.5)
        line = f"is {given}, must be one of {', '.join(choices)}"
        return f"{line}; {hint}" if hint else line
    return f"is {_shown(value)}, {_expectation(detail, key, root)}"


def _expectation(detail: ErrorDetails, key: str, root: type[Section]) -> str:
    """What the value has to be, in the words of the file's author rather than of Python."""
    kind = detail["type"]
    if kind in ("model_type", "model_attributes_type", "union_tag_not_found"):
        first = next(
            (option.path for option in options(root) if option.path.startswith(f"{key}.")), "--help-all lists them"
        )
        return f"but is a section: set options in it, such as {first}"
    if kind == "dict_type":
        return "must be a mapping from names to values"
    if kind == "tuple_type":
        return "must be a list"
    if kind == "string_type":
        return "must be text"
    if kind.startswith("bool_"):
        return "must be true or false"
    if kind == "string_pattern_mismatch":
        return "must consist of letters, digits, '.', '_' and '-' and start with a letter or digit"
    return detail["msg"].replace("Input should be", "must be")


def _shown(value: Any) -> str:
    """A value as YAML would have it, in a few words."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    text = repr(value)
    return text if len(text) <= _LONGEST_SHOWN else f"{text[:_LONGEST_SHOWN]}..."


def _unknown(key: str, variant: str, root: type[Section]) -> str:
    """What to say of an option that does not exist (here): the nearest that does."""
    siblings = [option for option in options(root) if option.path.rpartition(".")[0] == key.rpartition(".")[0]]
    here = ("", f"kind {variant}")  # "": what chooses the kind
    known = [o.path for o in options(root) if not variant or o not in siblings or o.variant in here]
    owners = [option.variant for option in siblings if option.path == key and option.path not in known]
    owners = owners or _kinds_with_section(key, root)
    if owners:
        return f"is an option of {' and '.join(owners)}, not of kind {variant}"
    if key in known:  # as of optim: {dense.lr: 0.1}
        return "has a dot within a section: nest it, or give its full name outside of all sections"
    section, _, name = key.rpartition(".")
    beside = {path.rpartition(".")[2]: path for path in known if section and path.rpartition(".")[0] == section}
    if close := nearest(name, beside, cutoff=0.75):
        return f"unknown option; did you mean {beside[close]}?"
    sections = {path.rpartition(".")[0] for path in known if path.count(".") == key.count(".") + 1}
    found = nearest(key, [*known, *sorted(sections)], cutoff=0.75)
    if not found:  # the right name in the wrong section, or without its section
        by_name = {path.rpartition(".")[2]: path for path in reversed(known)}
        found = by_name.get(nearest(key.rpartition(".")[2], by_name, cutoff=0.7), "")
    return f"unknown option; did you mean {found}?" if found else "unknown option; --help-all lists all"


def _kinds_with_section(key: str, root: type[Section]) -> list[str]:
    """The kinds, of the variant in which a dotted path lies, that have a section of its last name."""
    within = [root]
    *parents, name = key.split(".")
    for part in parents:
        fields = [section.model_fields[part] for section in within if part in section.model_fields]
        within = [inner for field in fields for inner in sections_in(field.annotation)]
    having = [kind for kind in within if name in kind.model_fields and sections_in(kind.model_fields[name].annotation)]
    return [f"kind {kind.model_fields['kind'].default}" for kind in having if "kind" in kind.model_fields]
