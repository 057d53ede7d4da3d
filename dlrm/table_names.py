"""Names of tables where the user's will not do.

A table has the name of its column, and a column may be called anything: ``type``, ``user.id``, nothing at all, a line
break. Two others want names of their own:

- *torch*: torchrec calls a module by its table, and a module must not be called like an attribute of
  ``torch.nn.ModuleDict`` (``type``, ``items``, ``training``), must not contain a dot, must not be empty;
- *checkpoints*, and files exported from them: names are text that can be printed.

What such a place takes is left as it is, so that ordinary names are the same everywhere; anything else becomes
``column%`` and the name in percent-encoding (RFC 3986): ``column%user%2Eid``. :func:`table_name` is the inverse of both.
Which names torch refuses depends on its version, so no name of a module is written to a file.
"""

from __future__ import annotations

from functools import cache
from urllib.parse import quote, unquote

from torch import nn

_MARK = "column%"


@cache
def module_name(table: str) -> str:
    """How torchrec calls a table."""
    name = state_name(table)
    return _marked(table) if "." in name or hasattr(nn.ModuleDict(), name) else name


@cache
def state_name(table: str) -> str:
    """How the training state, and with it a checkpoint, calls a table: ``tables.<state name>.weight``."""
    fine = table and table.isprintable() and not table.startswith(_MARK)
    return table if fine else _marked(table)


def table_name(name: str) -> str:
    """The table that :func:`module_name` or :func:`state_name` has called so."""
    return unquote(name.removeprefix(_MARK)) if name.startswith(_MARK) else name


def is_table_weight(full_name: str) -> bool:
    """Whether what torch calls so is the weight of a table, in one of a model's collections of tables."""
    return "tables.embedding_bags." in full_name or "tables.embeddings." in full_name


def table_of_weight(full_name: str) -> str:
    """The table whose weight torch calls ``....embedding_bags.<module name>.weight``, or ``.embeddings.``."""
    return table_name(full_name.split(".")[-2])


def _marked(table: str) -> str:
    return _MARK + quote(table, safe="").replace(".", "%2E")
