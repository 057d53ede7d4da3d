"""What follows the layers that tasks share, each a variant chosen by ``kind``."""

from __future__ import annotations

from typing import Literal

from dlrm.config.base import Section, SizesIfAny


class SharedBottom(Section):
    """Several tasks share all but their last layers."""

    kind: Literal["shared_bottom"] = "shared_bottom"
    tower: SizesIfAny = ()
    """Sizes of the hidden layers that each task has for itself. None: the last layer has a logit a task."""
