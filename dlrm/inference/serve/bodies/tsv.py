"""Rows as lines of Criteo's format: integers and categories, separated by tabs."""

from __future__ import annotations

from dlrm.inference.features import Features
from dlrm.inference.raw import Preprocessing
from dlrm.inference.serve.bodies.rows import check_rows


def tsv_features(body: bytes, preprocessing: Preprocessing, most_rows: int) -> Features:
    """See :data:`dlrm.inference.serve.bodies.Parse`; lines without labels."""
    return _features(body, preprocessing, most_rows, labelled=False)


def labelled_tsv_features(body: bytes, preprocessing: Preprocessing, most_rows: int) -> Features:
    """See :data:`dlrm.inference.serve.bodies.Parse`; lines that begin with a label, which is read and forgotten."""
    return _features(body, preprocessing, most_rows, labelled=True)


def _features(body: bytes, preprocessing: Preprocessing, most_rows: int, *, labelled: bool) -> Features:
    check_rows(body.count(b"\n") + (not body.endswith(b"\n") and bool(body)), most_rows)
    return preprocessing.from_tsv(body, labelled=labelled)[0]
