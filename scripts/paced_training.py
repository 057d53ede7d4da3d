"""dlrm_main.py that rests after each step, for scripts in which a training has to last: DLRM_PACE_S seconds."""

from __future__ import annotations

import os
import runpy
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

PROGRAM = Path(__file__).resolve().parents[1] / "dlrm_main.py"
sys.path.insert(0, str(PROGRAM.parent))  # the package lies beside that program, not beside this one

from dlrm import signals  # noqa: E402

if __name__ == "__main__":
    signals.take_early()  # Slurm's SIGUSR1 comes to ranks as well

from dlrm.command import failure  # noqa: E402


def rest_after_steps(seconds: float) -> None:
    """Have every stepper of this process rest."""
    from dlrm.train.stepper import Stepper

    train = Stepper.train

    def paced(self: Stepper, *batches: Any, **named: Any) -> Iterator[Any]:
        for output in train(self, *batches, **named):
            yield output
            time.sleep(seconds)

    Stepper.train = paced  # type: ignore[method-assign]


if __name__ == "__main__":
    failure.follow_launcher()
    rest_after_steps(float(os.environ["DLRM_PACE_S"]))
    sys.argv[0] = str(PROGRAM)
    runpy.run_path(str(PROGRAM), run_name="__main__")
