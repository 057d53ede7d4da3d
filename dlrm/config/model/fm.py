"""Options of :mod:`dlrm.models.fm`."""

from __future__ import annotations

from typing import Literal

from dlrm.config.model.base import WithoutHiddenUnits


class FmModel(WithoutHiddenUnits):
    """Factorisation machine (Rendle, ICDM 2010, equation 1): first-order weights, and products of the vectors of all pairs.

    A row of a table holds an id's vector and, as its last number, its first-order weight. Several tasks are as many
    machines: each has an equal part of the row.
    """

    kind: Literal["fm"] = "fm"
