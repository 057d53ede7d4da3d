"""Names of files and folders as people type them."""

from __future__ import annotations

import os
from typing import Annotated

from pydantic import AfterValidator

from dlrm.config.base import AS_LIST

# ``~`` is the shell's business where it stands alone, but not behind ``--data.path=`` or in a YAML file.
InputPath = Annotated[str, AfterValidator(os.path.expanduser)]
InputPaths = Annotated[tuple[InputPath, ...], *AS_LIST]
