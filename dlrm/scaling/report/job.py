"""``dlrm_main.py report``: the page of an experiment, from its table alone."""

from __future__ import annotations

from pathlib import Path

from dlrm.config.scaling_report import ReportConfig
from dlrm.errors import ConfigError
from dlrm.format import printable
from dlrm.run.secondary import reason
from dlrm.scaling.report.write import write_report


def run_report(config: ReportConfig) -> None:
    """Write the page and say where it is.

    Raises:
        DataError: there is no table of an experiment.
        ConfigError: the folder cannot be written.
    """
    results = Path(config.results)
    folder = Path(config.output) if config.output else results if results.is_dir() else results.parent
    try:
        page = write_report(results, folder)
    except OSError as error:
        message = f"{folder} cannot be written ({reason(error)}): name another folder"
        raise ConfigError.at("output", message) from None
    print(f"report: {printable(str(page))}")  # noqa: T201
