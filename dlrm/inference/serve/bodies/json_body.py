"""Rows as JSON: ``{"rows": [{column: value, ...}, ...]}`` or ``{"columns": {column: [value, ...], ...}}``."""

from __future__ import annotations

import codecs
import json
from typing import Any

from dlrm.inference.features import Features
from dlrm.inference.raw import Preprocessing
from dlrm.inference.serve.bodies.rows import check_rows
from dlrm.inference.serve.refusal import Refusal

_SHAPE = 'send {"rows": [{column: value, ...}, ...]} or {"columns": {column: [value, ...], ...}}'


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):  # two values of one column: whichever was meant, the other would be dropped silently
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise Refusal(400, "bad_request", f"the key {twice[:80]!a} is given twice in one object", hint="give it once")
    return found


def _constant(name: str) -> None:
    raise Refusal(400, "bad_request", f"{name} is not JSON", hint="leave a missing value out, or send null")


_DECODER = json.JSONDecoder(object_pairs_hook=_object, parse_constant=_constant)


def json_features(body: bytes, preprocessing: Preprocessing, most_rows: int) -> Features:
    """See :data:`dlrm.inference.serve.bodies.Parse`."""
    content = _decoded(body)
    if not isinstance(content, dict) or len(content) != 1:
        found = f"an object with {len(content)} keys" if isinstance(content, dict) else "no object"
        raise Refusal(422, "bad_rows", f"the body is {found}", hint=_SHAPE)
    ((key, value),) = content.items()
    if key == "rows":
        if not isinstance(value, list):
            raise Refusal(422, "bad_rows", "rows is no list", hint=_SHAPE)
        check_rows(len(value), most_rows)
        return preprocessing.from_json(value)
    if key != "columns":
        raise Refusal(422, "bad_rows", f"the body has the key {key[:80]!a}", hint=_SHAPE)
    if isinstance(value, dict):
        check_rows(max((len(column) for column in value.values() if isinstance(column, list)), default=1), most_rows)
    return preprocessing.from_columns(value)


def _decoded(body: bytes) -> Any:
    try:
        return _DECODER.decode(body.decode())
    except UnicodeDecodeError as error:
        problem = f"the body is not UTF-8: byte {error.start + 1} is 0x{body[error.start]:02x}"
        raise Refusal(400, "bad_request", problem, hint="send JSON as UTF-8") from None
    except json.JSONDecodeError as error:
        where = f"line {error.lineno}, column {error.colno}"
        where += " (there is a byte order mark)" if body.startswith(codecs.BOM_UTF8) else ""
        raise Refusal(400, "bad_request", f"the body is not JSON: {error.msg} at {where}", hint=_SHAPE) from None
    except RecursionError:
        raise Refusal(400, "bad_request", "the body is nested too deeply", hint=_SHAPE) from None
    except ValueError as error:  # a number of thousands of digits, of which Python says how many it reads
        problem = f"the body has a number that is too long ({error})"
        raise Refusal(400, "bad_request", problem, hint="send numbers that a column can have") from None
