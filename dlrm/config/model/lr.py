"""Options of :mod:`dlrm.models.lr`."""

from __future__ import annotations

from typing import ClassVar, Literal

from dlrm.config.base import PositiveInt
from dlrm.config.model.base import WithoutHiddenUnits


class LrModel(WithoutHiddenUnits):
    """Logistic regression: a weight for each id and each dense feature, and a bias; nothing else.

    Several tasks have weights of their own: a row of a table holds one a task. fbgemm's kernels take rows of 4, 8, 12, ...
    columns; those without a task are not used.
    """

    kind: Literal["lr"] = "lr"
    embedding_dim: PositiveInt = 4
    """Width of the rows of every table: at least a column a task."""
    why_equal: ClassVar[str] = "reads the same columns of all rows"
