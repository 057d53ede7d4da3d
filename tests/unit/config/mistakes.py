"""Reading a configuration that is wrong, for the tests of its messages."""

from collections.abc import Sequence
from pathlib import Path

import pytest

from dlrm.config import Config, load_config
from dlrm.errors import ConfigError


def from_text(folder: Path, text: str, arguments: Sequence[str] = ()) -> Config:
    path = folder / "a.yaml"
    path.write_text(text, encoding="utf-8")
    return load_config(path, arguments)


def mistakes(folder: Path, text: str | None = None, arguments: Sequence[str] = ()) -> list[str]:
    """What is said of each mistake, with ``a.yaml`` for the file's path."""
    with pytest.raises(ConfigError) as caught:
        load_config(None, arguments) if text is None else from_text(folder, text, arguments)
    said = [str(problem).replace(f"{folder}/", "") for problem in caught.value.problems]
    assert all("\n" not in line for line in said), said
    return said
