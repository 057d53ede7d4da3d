"""dlrm_main.py with a log of what each process trains, for scripts and tests that kill it.

    DLRM_STEP_LOG=folder python launch/elastic.py ... scripts/logged_training.py train --data.kind packed ...

The samples are told by :mod:`tests.support.numbered_data`, and the log is read by :mod:`tests.support.step_log`.
"""

from __future__ import annotations

import os
import runpy
import sys
from pathlib import Path

PROGRAM = Path(__file__).resolve().parents[1] / "dlrm_main.py"
sys.path.insert(0, str(PROGRAM.parent))  # the package lies beside that program, not beside this one

from dlrm.command import failure  # noqa: E402

if __name__ == "__main__":
    failure.follow_launcher()
    from tests.support.step_log import FOLDER_VARIABLE, log_steps

    log_steps(Path(os.environ[FOLDER_VARIABLE]))
    sys.argv[0] = str(PROGRAM)
    runpy.run_path(str(PROGRAM), run_name="__main__")
