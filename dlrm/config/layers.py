"""A configuration as layers of nested values, each value knowing where it was written.

Layers are merged defaults < file < command line. A *variant* is a mapping whose ``kind`` chooses among sections; where
a layer names another kind than the layer below, the lower layer's fields of the old variant are dropped, and where it
sets only fields, the kind below is kept.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from dlrm.errors import ConfigProblem

COMMAND_LINE = "command line"


@dataclass(frozen=True)
class Layer:
    """Nested values, where each dotted path in them was written, and what could not be read at all."""

    values: dict[str, Any]
    origins: dict[str, str] = field(default_factory=dict)
    problems: list[ConfigProblem] = field(default_factory=list)


class _Loader(yaml.SafeLoader):
    """YAML with the numbers and booleans that people mean: ``1e-3`` is a float, ``on`` and ``no`` are strings."""


def _install_resolvers() -> None:
    # PyYAML follows YAML 1.1, which reads 1e-3 as text and `no` as false; the core schema of YAML 1.2 does neither.
    _Loader.yaml_implicit_resolvers = {
        first: [
            (tag, pattern) for tag, pattern in resolvers if tag.rsplit(":", 1)[1] not in ("bool", "float", "timestamp")
        ]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }
    number = re.compile(
        r"""^[-+]?(?:\d[\d_]*\.[\d_]*|\.\d[\d_]*)(?:[eE][-+]?\d+)?$  # 1.5, .5, 1., 1.5e3
          |^[-+]?\d[\d_]*[eE][-+]?\d+$                               # 1e-3
          |^[-+]?\.(?:inf|Inf|INF)$|^\.(?:nan|NaN|NAN)$""",
        re.VERBOSE,
    )
    _Loader.add_implicit_resolver("tag:yaml.org,2002:float", number, list("-+.0123456789"))
    boolean = re.compile(r"^(?:true|True|TRUE|false|False|FALSE)$")
    _Loader.add_implicit_resolver("tag:yaml.org,2002:bool", boolean, list("tTfF"))


_install_resolvers()


def file_layer(path: Path) -> Layer:
    """The values of a YAML file with the line on which each was written.

    No such file, not YAML, not a mapping, a key given twice: these are the layer's problems.
    """
    name = str(path)
    try:
        text = path.read_text(encoding="utf-8")
        node = yaml.compose(text, Loader=_Loader)
        layer = Layer({})
        if node is not None:
            layer.problems.extend(_walk(node, "", name, layer.origins))
        if node is not None and not layer.problems:
            layer.values.update(yaml.load(text, Loader=_Loader))
    except OSError as error:
        return _unreadable(name, f"{error.strerror}; give --config the path of a YAML file")
    except UnicodeDecodeError:
        return _unreadable(name, "is not UTF-8 text; give --config the path of a YAML file")
    except yaml.MarkedYAMLError as error:
        line = f":{error.problem_mark.line + 1}" if error.problem_mark else ""
        what = " ".join(part for part in (error.context, error.problem) if part)
        return _unreadable(f"{name}{line}", f"is not valid YAML: {what}")
    except (yaml.YAMLError, ValueError) as error:
        return _unreadable(name, f"is not valid YAML: {error}".splitlines()[0])
    return layer


def _unreadable(origin: str, message: str) -> Layer:
    return Layer({}, problems=[ConfigProblem("", origin, message)])


def _walk(node: yaml.Node, prefix: str, name: str, origins: dict[str, str]) -> Iterator[ConfigProblem]:
    """Record the line of every key below ``node``; yield what YAML would accept and we do not."""
    if not isinstance(node, yaml.MappingNode):
        if prefix == "":
            yield ConfigProblem("", f"{name}:1", "holds no options; expected a mapping such as `train: {epochs: 1}`")
        return
    for key_node, value_node in node.value:
        path = f"{prefix}{key_node.value}"
        line = f"{name}:{key_node.start_mark.line + 1}"
        if path in origins:
            yield ConfigProblem(path, line, f"is given twice, first at {origins[path]}")
        origins[path] = line
        if isinstance(value_node, yaml.MappingNode):
            yield from _walk(value_node, f"{path}.", name, origins)


def command_line_layer(arguments: Sequence[str]) -> Layer:
    """The values of ``--section.key value``, ``--section.key=value`` and ``section.key=value`` arguments.

    Values are read as YAML, so ``[512, 16]``, ``true`` and ``null`` mean what they mean in a file.
    """
    layer = Layer({})
    rest = list(arguments)
    while rest:
        word = rest.pop(0)
        key, equals, text = word.removeprefix("--").partition("=")
        if not word.startswith("--") and not equals:
            message = f"{word!r} is neither --section.key value nor section.key=value"
            layer.problems.append(ConfigProblem("", COMMAND_LINE, message))
            continue
        if not equals:
            if not rest or rest[0].startswith("--"):
                layer.problems.append(ConfigProblem(key, COMMAND_LINE, "has no value; write --section.key value"))
                continue
            text = rest.pop(0)
        _assign(layer, key, _parsed(text))
    return layer


def _parsed(text: str) -> Any:
    try:
        return yaml.load(text, Loader=_Loader)
    except yaml.YAMLError:
        return text  # e.g. a path with a colon: plain text, which the option's type accepts or refuses


def _assign(layer: Layer, key: str, value: Any) -> None:
    *parents, last = key.split(".")
    target = layer.values
    for parent in parents:
        below = target.setdefault(parent, {})
        if not isinstance(below, dict):
            message = f"lies inside {parent}, which was given a value of its own"
            layer.problems.append(ConfigProblem(key, COMMAND_LINE, message))
            return
        target = below
    target[last] = value
    layer.origins[key] = COMMAND_LINE


def merge(lower: Layer, upper: Layer) -> Layer:
    """``upper`` over ``lower``: mappings are merged key by key, everything else is replaced."""
    origins = dict(lower.origins)
    values = _merge(lower.values, upper.values, "", origins)
    origins.update(upper.origins)
    return Layer(values, origins, [*lower.problems, *upper.problems])


def _merge(lower: dict[str, Any], upper: dict[str, Any], prefix: str, origins: dict[str, str]) -> dict[str, Any]:
    changes_variant = "kind" in upper and "kind" in lower and upper["kind"] != lower["kind"]
    merged: dict[str, Any] = {} if changes_variant else dict(lower)
    for key, value in upper.items():
        below = merged.get(key)
        if isinstance(below, dict) and isinstance(value, dict):
            merged[key] = _merge(below, value, f"{prefix}{key}.", origins)
        else:
            for stale in [path for path in origins if path.startswith(f"{prefix}{key}.")]:
                del origins[stale]
            merged[key] = value
    return merged
