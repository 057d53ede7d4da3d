"""The YAML that configurations are written in: YAML 1.2's idea of numbers and booleans, on top of PyYAML.

PyYAML follows YAML 1.1, which reads ``1e-3`` as text, ``no`` as false, ``1:30`` as 90 and ``010`` as 8. Here ``1e-3`` is a
number, and ``no``, ``1:30`` and ``010`` are text.
"""

from __future__ import annotations

import re

import yaml

STR_TAG = "tag:yaml.org,2002:str"
MERGE_TAG = "tag:yaml.org,2002:merge"
_INT_TAG = "tag:yaml.org,2002:int"
_FLOAT_TAG = "tag:yaml.org,2002:float"
_BOOL_TAG = "tag:yaml.org,2002:bool"
_REPLACED_TAGS = (_INT_TAG, _FLOAT_TAG, _BOOL_TAG, "tag:yaml.org,2002:timestamp")

_INT = re.compile(r"^[-+]?(?:0|[1-9][\d_]*)$|^0x[\da-fA-F_]+$")
_FLOAT = re.compile(
    r"""^[-+]?(?:\d[\d_]*\.[\d_]*|\.\d[\d_]*)(?:[eE][-+]?\d+)?$  # 1.5, .5, 1., 1.5e3
      |^[-+]?\d[\d_]*[eE][-+]?\d+$                               # 1e-3
      |^[-+]?\.(?:inf|Inf|INF)$|^\.(?:nan|NaN|NAN)$""",
    re.VERBOSE,
)
_BOOL = re.compile(r"^(?:true|True|TRUE|false|False|FALSE)$")


class _AsWritten:
    """A number whose text is what was written, for options that are text: a run named 1.10 or 1_000."""

    written = ""

    def __str__(self) -> str:
        return self.written


class _Int(_AsWritten, int):
    pass


class _Float(_AsWritten, float):
    pass


class Loader(yaml.SafeLoader):
    """Reads the dialect; builds nothing but mappings, lists, text, numbers, booleans and null."""

    def written_int(self, node: yaml.ScalarNode) -> int:
        """An int that knows how it was written."""
        number = _Int(self.construct_yaml_int(node))
        number.written = node.value
        return number

    def written_float(self, node: yaml.ScalarNode) -> float:
        """A float that knows how it was written."""
        number = _Float(self.construct_yaml_float(node))
        number.written = node.value
        return number


class Dumper(yaml.SafeDumper):
    """Writes what both :class:`Loader` and readers of YAML 1.1 read as it was meant: the text ``1e3`` is quoted."""


def _install() -> None:
    Loader.yaml_implicit_resolvers = {
        first: [(tag, pattern) for tag, pattern in resolvers if tag not in _REPLACED_TAGS]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }
    for kind in (Loader, Dumper):
        kind.add_implicit_resolver(_INT_TAG, _INT, list("-+0123456789"))
        kind.add_implicit_resolver(_FLOAT_TAG, _FLOAT, list("-+.0123456789"))
        kind.add_implicit_resolver(_BOOL_TAG, _BOOL, list("tTfF"))
    Loader.add_constructor(_INT_TAG, Loader.written_int)
    Loader.add_constructor(_FLOAT_TAG, Loader.written_float)


_install()
