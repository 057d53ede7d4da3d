"""From a YAML file and command-line arguments to a :class:`~dlrm.config.root.Config`, with every mistake at once."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError
from pydantic_core import ErrorDetails

from dlrm.config.describe import options, to_plain
from dlrm.config.layers import Layer, command_line_layer, file_layer, merge
from dlrm.config.root import Config
from dlrm.errors import ConfigError, ConfigProblem


def load_config(path: str | Path | None = None, arguments: Sequence[str] = ()) -> Config:
    """Read a configuration: defaults < file < command line.

    Args:
        path: YAML file; none: defaults only.
        arguments: ``--section.key value`` or ``section.key=value`` words.

    Raises:
        ConfigError: every mistake that can be found without looking at data or devices.
    """
    merged = Layer(to_plain(Config()))
    if path is not None:
        merged = merge(merged, file_layer(Path(path)))
    merged = merge(merged, command_line_layer(arguments))
    problems = list(merged.problems)
    try:
        config = Config.model_validate(merged.values)
    except ValidationError as error:
        problems += [_problem(detail, merged) for detail in error.errors(include_url=False)]
    if problems:
        raise ConfigError(problems)
    return config


def dump_config(config: Config) -> str:
    """The resolved configuration as YAML; loading it gives the same configuration."""
    return yaml.safe_dump(to_plain(config), sort_keys=False, allow_unicode=True, width=120, default_flow_style=None)


def _problem(detail: ErrorDetails, merged: Layer) -> ConfigProblem:
    key, variant = _dotted(detail["loc"], merged.values)
    if detail["type"].startswith("union_tag"):
        key += ".kind"
    return ConfigProblem(key=key, origin=_origin(key, merged), message=_message(detail, key, variant))


def _dotted(location: tuple[int | str, ...], values: Any) -> tuple[str, str]:
    """The dotted path of pydantic's location, without the variant tags it inserts, and the innermost of those tags.

    ``("optim", "sparse", "sgd", "lr")`` is ``optim.sparse.lr`` of variant ``sgd``.
    """
    path, variant = "", ""
    node = values
    for part in location:
        if isinstance(node, dict) and part not in node and node.get("kind") == part:
            variant = str(part)
        elif isinstance(part, int):
            path += f"[{part}]"
            node = node[part] if isinstance(node, list | tuple) and part < len(node) else None
        else:
            path += f".{part}" if path else part
            node = node.get(part) if isinstance(node, dict) else None
    return path, variant


def _origin(key: str, merged: Layer) -> str:
    """Where the value, or failing that the section around it, was written."""
    path = key.split("[", 1)[0]
    while path and path not in merged.origins:
        path = path.rpartition(".")[0]
    return merged.origins.get(path, "")


def _message(detail: ErrorDetails, key: str, variant: str) -> str:
    kind, context, value = detail["type"], detail.get("ctx", {}), detail.get("input")
    shown = f"is {value!r}, " if isinstance(value, str | int | float | bool) or value is None else ""
    if kind == "extra_forbidden":
        return _unknown(key, variant)
    if kind == "missing":
        return "is required and was not given"
    if kind == "union_tag_not_found":
        return "needs a `kind`, or options of the kind chosen before"
    if kind in ("union_tag_invalid", "literal_error"):
        given = str(context.get("tag", value))
        expected = str(context.get("expected_tags") or context["expected"]).replace(" or ", ", ")
        choices = [choice.strip(" '") for choice in expected.split(",")]
        nearest = difflib.get_close_matches(given, choices, n=1, cutoff=0.5)
        hint = f"; did you mean {nearest[0]}?" if nearest else ""
        return f"is {given!r}, must be one of {', '.join(choices)}{hint}"
    if kind == "value_error":
        return str(context["error"])
    if kind == "string_pattern_mismatch":
        return f"is {value!r}, must consist of letters, digits, '.', '_' and '-' and start with a letter or digit"
    return shown + detail["msg"].replace("Input should be", "must be")


def _unknown(key: str, variant: str) -> str:
    """What to say of an option that does not exist (here): the nearest that does."""
    siblings = [option for option in options() if option.path.rpartition(".")[0] == key.rpartition(".")[0]]
    known = [o.path for o in options() if not variant or o not in siblings or o.variant == f"kind {variant}"]
    owners = [option.variant for option in siblings if option.path == key and option.path not in known]
    if owners:
        return f"is an option of {' and '.join(owners)}, not of kind {variant}"
    nearest = difflib.get_close_matches(key, known, n=1, cutoff=0.75)
    if not nearest:  # the right name in the wrong section, or without its section
        by_name = {path.rpartition(".")[2]: path for path in reversed(known)}
        names = difflib.get_close_matches(key.rpartition(".")[2], by_name, n=1, cutoff=0.7)
        nearest = [by_name[name] for name in names]
    return f"unknown option; did you mean {nearest[0]}?" if nearest else "unknown option; --help lists all"
