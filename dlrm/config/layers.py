"""A configuration as layers of nested values, each value knowing where it was written.

Layers are merged defaults < file < command line. A *variant* is a mapping whose ``kind`` chooses among sections; where
a layer names another kind than the layer below, the lower layer's fields of the old variant are dropped, and where it
sets only fields, the kind below is kept.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

import yaml

from dlrm.config.dialect import MERGE_TAG, STR_TAG, Loader
from dlrm.errors import ConfigProblem

COMMAND_LINE = "command line"


@dataclass(frozen=True)
class Layer:
    """Nested values, where each dotted path in them was written, and what could not be read at all."""

    values: dict[str, Any]
    origins: dict[str, str] = field(default_factory=dict)
    problems: list[ConfigProblem] = field(default_factory=list)


def file_layer(path: Path, hint: str = "give the path of a YAML file") -> Layer:
    """The values of a YAML file with the line on which each was written; ``hint``: what to do where it cannot be read.

    No such file, not YAML, not a mapping, a key given twice: these are the layer's problems.
    """
    name = str(path)
    try:
        layer = Layer({})
        value = _read(path.read_text(encoding="utf-8"), "", lambda node: f"{name}:{node.start_mark.line + 1}", layer)
    except OSError as error:
        return _unreadable(name, f"{error.strerror}; {hint}")
    except UnicodeDecodeError:
        return _unreadable(name, f"is not UTF-8 text; {hint}")
    except yaml.MarkedYAMLError as error:
        line = f":{error.problem_mark.line + 1}" if error.problem_mark else ""
        what = " ".join(part for part in (error.context, error.problem) if part)
        return _unreadable(f"{name}{line}", f"is not valid YAML: {what}")
    except RecursionError:
        return _unreadable(name, "is nested too deeply, or an alias in it contains itself")
    except (yaml.YAMLError, ValueError) as error:
        return _unreadable(name, f"is not valid YAML: {error}".splitlines()[0])
    if not isinstance(value, dict):
        return _unreadable(f"{name}:1", "holds no options; expected a mapping such as `train: {epochs: 1}`")
    layer.values.update(value)
    return layer


def _unreadable(origin: str, message: str) -> Layer:
    return Layer({}, problems=[ConfigProblem("", origin, message)])


def _read(text: str, prefix: str, origin_of: Callable[[yaml.Node], str], layer: Layer) -> Any:
    """The value that a YAML text holds; the origins of the keys in it, and what is wrong with them, go to ``layer``.

    Nothing at all (an empty file, comments) is an empty mapping.
    """
    loader = Loader(text)
    node = loader.get_single_node()
    if node is None:
        return {}
    layer.problems.extend(_walk(node, prefix, origin_of, layer.origins))
    return loader.construct_document(node)


def _walk(
    node: yaml.Node, prefix: str, origin_of: Callable[[yaml.Node], str], origins: dict[str, str]
) -> Iterator[ConfigProblem]:
    """Record the origin of every key below ``node``, and make every key text; yield the keys that are given twice."""
    if not isinstance(node, yaml.MappingNode):
        return
    for key_node, value_node in node.value:
        if not isinstance(key_node, yaml.ScalarNode) or key_node.tag == MERGE_TAG:
            continue  # the first is refused when the values are made; what the second brings in has its own origin
        key_node.tag = STR_TAG  # or else a table named 1 would have another name here than on the command line
        path = f"{prefix}{key_node.value}"
        if path in origins:
            yield ConfigProblem(path, origin_of(key_node), f"is given twice, first at {origins[path]}")
        origins[path] = origin_of(key_node)
        yield from _walk(value_node, f"{path}.", origin_of, origins)


def command_line_layer(
    arguments: Sequence[str], switches: Collection[str] = (), short: Mapping[str, str] = MappingProxyType({})
) -> Layer:
    """The values of ``--section.key value``, ``--section.key=value`` and ``section.key=value`` arguments.

    Of ``switches``, the options that are (of some kind) true or false, the name alone means true: ``--section.key``. Names
    in ``short`` stand for others: ``--resume auto`` for ``--resume.checkpoint auto``; so do names with a value:
    ``--resume job`` for ``--resume.job true``.

    Values are read as YAML, so ``[512, 16]``, ``true`` and ``null`` mean what they mean in a file. Of an option that is
    given twice the later value counts, so that a command can be repeated with one thing changed at its end.
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
        if not equals and key in switches and not (rest and is_value(rest[0])):
            text = "true"
        elif not equals:
            if not rest or rest[0].startswith("--"):
                layer.problems.append(ConfigProblem(key, COMMAND_LINE, "has no value; write --section.key value"))
                continue
            text = rest.pop(0)
        key, _, text = short.get(f"{key}={text}", f"{short.get(key, key)}={text}").partition("=")
        layer = merge(layer, _argument_layer(key, text))
    return layer


def is_value(word: str) -> bool:
    """Whether a word behind a switch is its value, or that of another kind's option of its name, and no option."""
    return not word.startswith("--") and "=" not in word


def _argument_layer(key: str, text: str) -> Layer:
    parts = key.split(".")
    if not all(parts) or key.startswith("-"):
        message = f"{key!r} is no name of an option; write --section.key value or section.key=value"
        return Layer({}, problems=[ConfigProblem("", COMMAND_LINE, message)])
    layer = Layer({}, {key: COMMAND_LINE})
    value = _argument_value(text, key, layer)
    for part in reversed(parts[1:]):
        value = {part: value}
    layer.values[parts[0]] = value
    return layer


def _argument_value(text: str, key: str, layer: Layer) -> Any:
    try:
        value = _read(text, f"{key}.", lambda node: COMMAND_LINE, layer) if text.strip() else None
    except (yaml.YAMLError, ValueError, RecursionError):
        return text  # e.g. a path with a colon: plain text, which the option's type accepts or refuses
    return text if isinstance(value, str) and text[0] not in "'\"" else value  # YAML would take `a #1` for `a`


def merge(lower: Layer, upper: Layer) -> Layer:
    """``upper`` over ``lower``: mappings are merged key by key, everything else is replaced.

    Options inside of what the lower layer gives a value of its own (``optim.dense.lr`` where ``optim.dense`` is
    ``adam``) are a problem of the result.
    """
    origins = dict(lower.origins)
    clashes = list(_clashes(lower, upper))
    values = _merge(lower.values, upper.values, "", origins)
    origins.update(upper.origins)
    return Layer(values, origins, [*lower.problems, *upper.problems, *clashes])


def _clashes(lower: Layer, upper: Layer) -> Iterator[ConfigProblem]:
    for path, origin in upper.origins.items():
        value: Any = lower.values
        section = ""
        for part in path.split(".")[:-1]:
            section = f"{section}.{part}" if section else part
            value = value.get(part)
            if not isinstance(value, dict):
                if value is not None and section in lower.origins:
                    message = f"lies inside {section}, which is {value!r} ({lower.origins[section]})"
                    yield ConfigProblem(path, origin, message)
                break


def _merge(lower: dict[str, Any], upper: dict[str, Any], prefix: str, origins: dict[str, str]) -> dict[str, Any]:
    """Merge; ``origins`` loses those of what is replaced."""
    merged = dict(lower)
    kinds = [layer.get("kind") for layer in (lower, upper)]
    if all(isinstance(kind, str) for kind in kinds) and kinds[0] != kinds[1]:  # a table may be called kind, too
        merged = {}
        _forget(prefix, origins)
    for key, value in upper.items():
        below = merged.get(key)
        if isinstance(below, dict) and isinstance(value, dict):
            merged[key] = _merge(below, value, f"{prefix}{key}.", origins)
        else:
            _forget(f"{prefix}{key}.", origins)
            merged[key] = value
    return merged


def _forget(prefix: str, origins: dict[str, str]) -> None:
    for path in [path for path in origins if path.startswith(prefix)]:
        del origins[path]
