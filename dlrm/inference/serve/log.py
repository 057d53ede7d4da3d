"""What a server says: a line for each thing that happens."""

from __future__ import annotations

import json
import sys
import time
from typing import Any

from dlrm.format import local_time, printable


def say(line: str) -> None:
    """A line with the time on standard output."""
    sys.stdout.write(f"{local_time(time.time())} {printable(line)}\n")
    sys.stdout.flush()


def say_record(**values: Any) -> None:
    """A line of JSON on standard output."""
    sys.stdout.write(f"{json.dumps(values)}\n")
    sys.stdout.flush()
