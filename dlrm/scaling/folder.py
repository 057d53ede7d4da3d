"""Where the commands that measure and predict write what they find."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from dlrm.config import Config, dump_config
from dlrm.errors import ConfigError
from dlrm.run.files import is_run
from dlrm.run.secondary import write_text


def result_folder(config: Config, output: str, kind: str, earlier: Iterable[str] = ()) -> Path:
    """Make the folder, write the configuration into it, and remove what this kind of results has left there before.

    Args:
        config: of the command.
        output: the folder; <run.dir>/<run.name>.<kind> if empty.
        kind: of the results: <kind>.json and <kind>.yaml are theirs.
        earlier: patterns of its other files.

    Raises:
        ConfigError: it cannot be written, or is a run's.
    """
    folder = Path(output or f"{config.run.dir}/{config.run.name}.{kind}")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if is_run(folder) and any(folder.iterdir()):
            raise ConfigError.at("output", f"{folder} is the folder of a run: name another")
        for pattern in (f"{kind}.json", *earlier):
            for path in folder.glob(pattern):
                path.unlink(missing_ok=True)
        write_text(folder / f"{kind}.yaml", dump_config(config))
    except OSError as error:
        raise ConfigError.at("output", f"{folder} cannot be written ({error.strerror}): name another folder") from None
    return folder
