"""Settings as a YAML file with comments that say where each comes from."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import yaml

from dlrm.config import Config
from dlrm.config.dialect import Dumper
from dlrm.format import printable
from dlrm.moving.command_line import Launch
from dlrm.moving.lines import Command, Differs, Idle, Line, Setting

_WIDTH = 120
_NAMES = {
    "facebookresearch": "facebookresearch/dlrm, torchrec_dlrm/dlrm_main.py",
    "mlperf": "mlcommons/training, recommendation_v2/torchrec_dlrm/dlrm_main.py",
}


def document(lines: Sequence[Line], command: Command, launch: Launch) -> str:
    """The YAML file: what it is, what differs, which flags are idle, and the settings section by section."""
    tree: dict[str, Any] = {}
    for line in lines:
        if isinstance(line, Setting):
            *sections, key = line.path.split(".")
            node = tree
            for section in sections:
                node = node.setdefault(section, {})
            node[key] = line
    head = [
        f"A command line of {_NAMES[command.trainer]}, {command.ranks} rank(s) ({launch.source}).",
        f"Train: torchrun --nproc-per-node {command.ranks} dlrm_main.py train --config THIS_FILE. Any number of ranks "
        "gives the same training.",
    ]
    comments = [*_comment(head[:1]), *_comment(head[1:])]
    comments += _list("What is not as it is there:", [line.text for line in lines if isinstance(line, Differs)])
    idle = [f"{line.flag}: {line.reason}" for line in lines if isinstance(line, Idle)]
    comments += _list("Flags that change nothing here:", idle)
    ordered = {section: tree[section] for section in Config.model_fields if section in tree}
    return "\n".join([*comments, *_section(ordered, "")]) + "\n"


def _list(title: str, entries: Sequence[str]) -> list[str]:
    return ["#", f"# {title}", *_comment(entries, first="# - ", further="#   ")] if entries else []


def _comment(paragraphs: Sequence[str], first: str = "# ", further: str = "# ") -> list[str]:
    return [
        line
        for text in paragraphs
        for line in textwrap.wrap(
            printable(text), _WIDTH, initial_indent=first, subsequent_indent=further, break_on_hyphens=False
        )
    ]


def _section(tree: Mapping[str, Any], indent: str) -> Iterator[str]:
    for key, value in tree.items():
        if isinstance(value, Setting):
            yield from _setting(key, value, indent)
        else:
            yield f"{indent}{key}:"
            yield from _section(value, f"{indent}  ")


def _setting(key: str, setting: Setting, indent: str) -> Iterator[str]:
    """``key: value  # source``; a comment for which there is no room goes before it."""
    flow = (
        None if isinstance(setting.value, list) else False
    )  # a list in one line, and no braces around a single option
    dumped = yaml.dump({key: setting.value}, Dumper=Dumper, default_flow_style=flow, width=_WIDTH - len(indent) - 8)
    text = textwrap.indent(dumped.rstrip("\n"), indent)
    comment = f"  # {printable(setting.source)}"
    if "\n" in text or len(text) + len(comment) > _WIDTH:
        yield from _comment([setting.source], f"{indent}# ", f"{indent}# ")
        yield text
    else:
        yield text + comment
