"""How many rows a body may have."""

from __future__ import annotations

from dlrm.inference.serve.refusal import Refusal


def check_rows(rows: int, most_rows: int) -> None:
    """See that there are some and not too many.

    Raises:
        Refusal: there are none, or too many.
    """
    if not rows:
        raise Refusal(422, "bad_rows", "there are no rows", hint="send at least one")
    if rows > most_rows:
        hint = f"send at most {most_rows} at once (the server's max_request_rows)"
        raise Refusal(413, "too_large", f"there are {rows} rows", hint=hint)
