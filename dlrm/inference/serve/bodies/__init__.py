"""From the bytes that a client sends to features; each format is a file, and none trusts what it reads."""

from __future__ import annotations

from collections.abc import Callable
from types import MappingProxyType

from dlrm.errors import DataError
from dlrm.inference.features import Features
from dlrm.inference.raw import Preprocessing
from dlrm.inference.serve.bodies.arrow import arrow_features
from dlrm.inference.serve.bodies.json_body import json_features
from dlrm.inference.serve.bodies.npy import npy_features
from dlrm.inference.serve.bodies.tsv import labelled_tsv_features, tsv_features
from dlrm.inference.serve.refusal import Refusal

JSON = "application/json"
ARROW = "application/vnd.apache.arrow.stream"
TSV = "text/tab-separated-values"
NPY = "application/x-npy"

Parse = Callable[[bytes, Preprocessing, int], Features]
"""Makes features of a body, of at most so many rows.

Raises:
    Refusal: it is not of the format, or has too many rows or none; DataError: a row is wrong.
"""
PARSERS = MappingProxyType({JSON: json_features, ARROW: arrow_features, TSV: tsv_features, NPY: npy_features})


def parser_of(content_type: str, *, labelled: bool = False) -> Parse:
    """What reads a body of this type.

    Args:
        content_type: of the request's header; empty where it had none.
        labelled: whether lines begin with a label, which is ignored.

    Raises:
        Refusal: there is nothing that does.
    """
    kind, *parameters = (part.strip().lower() for part in content_type.split(";"))
    parse: Parse | None = PARSERS.get(kind)
    known = ", ".join(PARSERS)
    if parse is None:
        problem = f"content type {content_type[:80]!a} is not understood" if content_type else "has no content type"
        raise Refusal(415, "media_type", problem, hint=f"send one of {known} and say so: Content-Type: {JSON}")
    for parameter in parameters:
        if parameter and parameter.replace('"', "").replace("'", "") not in ("charset=utf-8", "charset=us-ascii"):
            raise Refusal(415, "media_type", f"content type has {parameter[:80]!a}", hint="send UTF-8")
    if not labelled:
        return parse
    if kind != TSV:
        raise Refusal(400, "bad_request", f"labelled is for {TSV} alone", hint="leave it out")
    return labelled_tsv_features


def features_of(parse: Parse, body: bytes, preprocessing: Preprocessing, most_rows: int) -> Features:
    """The features of a body.

    Raises:
        Refusal: it has none, in whatever way.
    """
    try:
        return parse(body, preprocessing, most_rows)
    except DataError as error:
        raise Refusal.of(error) from None
