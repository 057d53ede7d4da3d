"""Options of a job's command, and words of the names of folders that are made of them."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any


def as_words(settings: Mapping[str, Any]) -> list[str]:
    """Options and their values, nested ones too, as the words of a command line."""
    return [f"--{name}={json.dumps(value, ensure_ascii=False)}" for name, value in settings.items()]


def folder_word(text: str) -> str:
    """Text as a part of a folder's name; empty where nothing of it can be one."""
    return re.sub(r"[^\w.-]+", "_", text, flags=re.ASCII).strip("_.-")
