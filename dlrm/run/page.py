"""What reports share: pages of one file that need nothing else, neither beside them nor from a network."""

from __future__ import annotations

import base64
from typing import Any

import jinja2

from dlrm.format import printable

STYLE = """
:root { color-scheme: light dark; --paper: #fff; --card: #f6f7f9; --ink: #1f2933; --muted: #5c6773; --line: #dde2e8;
  --accent: #0072b2; --bad: #b3400f; --good: #00785a; }
@media (prefers-color-scheme: dark) { :root { --paper: #14181e; --card: #1c222a; --ink: #e5e9f0; --muted: #9aa7b8;
  --line: #333c48; --accent: #6cb8ea; --bad: #f0915c; --good: #4cc9a0; } }
* { box-sizing: border-box; }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 70rem; margin: 2rem auto; padding: 0 1rem; color: var(--ink);
  background: var(--paper); }
h1, h2, p, li { overflow-wrap: anywhere; }
a { color: var(--accent); }
table { border-collapse: collapse; margin: 1rem 0; } td, th { padding: .2rem .8rem .2rem 0; text-align: left; }
tr { border-bottom: 1px solid var(--line); } img { max-width: 100%; }
pre { background: var(--card); padding: 1rem; overflow-x: auto; }
"""
"""The looks of a page, in light and in dark."""


def render(template: str, **values: Any) -> str:
    """A page from a jinja2 template, in which every value is escaped but those that it calls ``safe``.

    ``name | printable`` shows what a terminal would obey.
    """
    environment = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    environment.filters["printable"] = lambda text: printable(str(text))
    return environment.from_string(template).render(**values)


def data_uri(content: bytes, kind: str) -> str:
    """A file as an address that holds it.

    Args:
        content: of the file.
        kind: its media type: ``image/png``.
    """
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"
