"""What ``status`` can be told."""

from __future__ import annotations

import warnings

from dlrm.config.base import Advanced, PositiveFloat, Section

with warnings.catch_warnings():  # pydantic has a method `json`, deprecated, which nobody calls here
    warnings.filterwarnings("ignore", message='Field name "json"', category=UserWarning)

    class StatusConfig(Section):
        """What becomes of a run, while it goes on and after; nothing but its folder is looked at."""

        path: str
        """Folder of the run, on this host or on a file system that it shares."""
        watch: bool = False
        """Look again every few seconds until the run has ended, or Ctrl-C."""
        json: bool = False  # type: ignore[assignment]
        """Print JSON for programs; with watch a line for each look."""
        every_s: Advanced[PositiveFloat] = 2.0
        """Seconds between two looks."""
