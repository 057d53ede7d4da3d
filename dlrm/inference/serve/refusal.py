"""What a client is told of a request that is not answered: a status, and where the mistake is."""

from __future__ import annotations

import json
from typing import Literal

from dlrm.errors import DataError
from dlrm.format import printable

Cause = Literal[
    "bad_request",
    "not_found",
    "method",
    "too_late",
    "not_acceptable",
    "too_large",
    "media_type",
    "bad_rows",
    "queue_full",
    "too_many_requests",
    "expired",
    "closing",
    "failed",
]
"""Why, for the metrics; docs/serving.md lists them with their statuses."""
_LONGEST = 500
_RETRY_AFTER_S = 1


class Refusal(Exception):  # noqa: N818  # an answer more than an error
    """A request that is not answered.

    Args:
        status: of HTTP; cause: for the metrics; problem: in words.
        row, column: where, counted from 1.
        hint: what the client can do.
        retry_after_s: when to ask again, where that helps.
        allow: the methods that there are, where another was used.
    """

    def __init__(
        self,
        status: int,
        cause: Cause,
        problem: str,
        *,
        row: int | None = None,
        column: str | None = None,
        hint: str = "",
        retry_after_s: int | None = None,
        allow: str = "",
    ) -> None:
        super().__init__(status, problem)
        self.status, self.cause, self.problem = status, cause, problem
        self.row, self.column, self.hint = row, column, hint
        self.retry_after_s, self.allow = retry_after_s, allow

    @classmethod
    def of(cls, error: DataError) -> Refusal:
        """What is wrong with raw rows."""
        return cls(422, "bad_rows", error.problem, row=error.row, column=error.column, hint=error.hint)

    @property
    def body(self) -> bytes:
        """JSON; whatever a client sent, what is quoted of it is one line of ASCII."""
        error = {
            "row": self.row,
            "column": self.column,
            "problem": _short(self.problem),
            "hint": _short(self.hint),
        }
        return json.dumps({"error": error}).encode() + b"\n"

    @property
    def headers(self) -> list[tuple[bytes, bytes]]:
        """Beside those of its body."""
        found = []
        if self.retry_after_s is not None:
            found.append((b"retry-after", str(self.retry_after_s).encode()))
        if self.allow:
            found.append((b"allow", self.allow.encode()))
        return found


def _short(text: str) -> str:
    shown = printable(text)
    return shown if len(shown) <= _LONGEST else f"{shown[: _LONGEST - 3]}..."


def later(cause: Cause, problem: str) -> Refusal:
    """That there is too much to do now."""
    return Refusal(503, cause, problem, hint="ask again later", retry_after_s=_RETRY_AFTER_S)
