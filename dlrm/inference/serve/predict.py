"""``POST /v1/models/{name}/predict``: the path that is asked thousands of times a second.

It is a plain ASGI function beside FastAPI's routes: a request's bytes are read, parsed once and put into a queue; one
callback of the event loop answers all requests of a batch.
"""

from __future__ import annotations

import asyncio
import time
import traceback
from collections.abc import Awaitable, Callable, MutableMapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qsl

from dlrm.format import did_you_mean, escaped
from dlrm.inference.features import Features
from dlrm.inference.serve.answers import ANSWERS, answer_type
from dlrm.inference.serve.batcher import Workers
from dlrm.inference.serve.bodies import JSON, Parse, features_of, parser_of
from dlrm.inference.serve.log import say
from dlrm.inference.serve.metrics import Metrics
from dlrm.inference.serve.models import Models, ServedModel
from dlrm.inference.serve.parsing import Parsing
from dlrm.inference.serve.refusal import Refusal, later
from dlrm.inference.serve.waiting import ClosedError, ExpiredError, QueueFullError, Request

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

_INLINE_BYTES = 32 << 10
"""Larger bodies are parsed by other threads, so that the event loop goes on."""
_INLINE_ROWS = 512
"""So are the answers to more rows written."""
_SHARE_OF_PARSING = 0.25
"""Of the time that a request may take: how long a body may have to wait until it is parsed."""


@dataclass(frozen=True)
class RequestLimits:
    """What bounds a request, and all that are here at once; see :class:`dlrm.config.serve.ServeConfig`."""

    max_rows: int
    max_body_bytes: int
    max_requests: int
    max_held_bytes: int
    timeout_s: float


class LoopRequest(Request):
    """A request that a coroutine waits for."""

    __slots__ = ("done",)

    def __init__(self, features: Features, deadline_s: float, done: asyncio.Future[None]) -> None:
        super().__init__(features, deadline_s)
        self.done = done

    def begin(self) -> bool:
        """Whether its coroutine still waits."""
        return not self.done.cancelled()


def wake(requests: Sequence[Request]) -> None:
    """Have the coroutines go on; in the loop's thread."""
    for request in requests:
        assert isinstance(request, LoopRequest)
        if not request.done.done():
            request.done.set_result(None)


def deliver_to(loop: asyncio.AbstractEventLoop) -> Callable[[Sequence[Request]], None]:
    """What tells a loop of finished requests, with one call for all of a batch."""

    def deliver(requests: Sequence[Request]) -> None:
        with suppress(RuntimeError):  # the loop is closed: nobody waits any more
            loop.call_soon_threadsafe(wake, requests)

    return deliver


class _Gone(Exception):  # noqa: N818
    """The client has closed the connection."""


class Predict:
    """Answers the requests of all models.

    Args:
        models: that there are; workers: that compute, and deliver to the loop that calls this.
        limits: of requests; metrics: are told.

    Attributes:
        requests: that are here; held_bytes: of their bodies.
    """

    def __init__(self, models: Models, workers: Workers, limits: RequestLimits, metrics: Metrics) -> None:
        self._models, self._workers, self._limits, self._metrics = models, workers, limits, metrics
        self._parsing = Parsing(limits.timeout_s * _SHARE_OF_PARSING)
        self._writers = ThreadPoolExecutor(1, thread_name_prefix="write")  # no answer waits behind what is to be parsed
        self.requests = 0
        self.held_bytes = 0

    async def __call__(self, name: str, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request for the model that is called ``name``."""
        started_s = time.monotonic()
        model = self._models.get(name)
        self.requests += 1
        extra: list[tuple[bytes, bytes]] = []
        try:
            kind, body, rows = await self._answer(model, name, scope, receive)
            status = 200
        except Refusal as refusal:
            status, kind, body, extra, rows = refusal.status, JSON, refusal.body, refusal.headers, 0
            self._metrics.rejected(refusal.cause)
        except _Gone:
            return
        finally:
            self.requests -= 1
        # Counted before they are sent: who has an answer finds it in the metrics.
        known = "" if model is None else name
        self._metrics.request_of(known, str(status)).inc()
        if model is not None:
            self._metrics.total_of[name].observe(time.monotonic() - started_s)
            if rows:
                self._metrics.rows_of[name].inc(rows)
        headers = [(b"content-type", kind.encode()), (b"content-length", str(len(body)).encode()), *extra]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    async def _answer(
        self, model: ServedModel | None, name: str, scope: Scope, receive: Receive
    ) -> tuple[str, bytes, int]:
        """Content type, body and number of rows of the answer.

        Raises:
            Refusal: there is none.
        """
        if scope["method"] != "POST":
            raise Refusal(405, "method", "only POST predicts", hint="send rows with POST", allow="POST")
        if model is None:
            hint = did_you_mean(name, self._models) or f"there are {', '.join(list(self._models)[:8])}"
            raise Refusal(404, "not_found", f"there is no model {escaped(name, 80)}", hint=hint)
        if self.requests > self._limits.max_requests:
            problem = f"{self._limits.max_requests} requests are being answered (max_requests)"
            raise later("too_many_requests", problem)
        query = _query(scope["query_string"])
        parse, answer_kind, length = _headers(scope["headers"], query)
        self._check_size(length)
        body = await self._read(receive, length)
        held = len(body)
        self.held_bytes += held
        try:
            return answer_kind, *await self._of_body(model, parse, body, answer_kind, query.timeout_s)
        finally:
            self.held_bytes -= held

    async def _of_body(
        self, model: ServedModel, parse: Parse, body: bytes, answer_kind: str, timeout_s: float
    ) -> tuple[bytes, int]:
        version, name, loop = model.version, model.name, asyncio.get_running_loop()
        started_s = time.monotonic()
        deadline_s = started_s + min(timeout_s, self._limits.timeout_s)
        asked = (parse, body, version.preprocessing, self._limits.max_rows)
        try:
            if len(body) <= _INLINE_BYTES:
                features = features_of(*asked)
            else:
                features = await self._parsing.features(len(body), deadline_s, *asked)
        except ExpiredError as error:
            raise self._unanswered(name, error) from None
        except Refusal:
            raise
        except Exception as error:
            raise self._failed(name, error) from error
        self._metrics.parse_of[name].observe(time.monotonic() - started_s)
        request = LoopRequest(features, deadline_s, loop.create_future())
        try:
            self._workers.put(version.queue, request)
        except QueueFullError as error:
            raise later("queue_full", f"{error} (max_queue_rows)") from None
        except ClosedError as error:
            raise later("closing", str(error)) from None
        await request.done
        if request.error is not None:
            raise self._unanswered(name, request.error)
        assert request.result is not None
        write, written = ANSWERS[answer_kind], (version, name, request.result)
        if request.rows <= _INLINE_ROWS:
            return write(*written), request.rows
        return await loop.run_in_executor(self._writers, write, *written), request.rows

    def _unanswered(self, name: str, error: Exception) -> Refusal:
        if isinstance(error, ExpiredError):
            problem = f"waited {self._limits.timeout_s * 1000:g} ms or its own timeout_ms, and was not computed"
            return Refusal(504, "expired", problem, hint="the server has too much to do; ask again later, or for less")
        if isinstance(error, ClosedError):
            return later("closing", str(error))
        return self._failed(name, error)

    def _failed(self, name: str, error: Exception) -> Refusal:
        """An error that no client can mend: the log has all of it, the client its type."""
        say(f"{name} failed to answer: {type(error).__name__}: {error}")
        for line in "".join(traceback.format_exception(error)).splitlines():
            say(f"  {line}")
        hint = "the server's log says more"
        return Refusal(500, "failed", f"the server failed ({type(error).__name__})", hint=hint)

    async def _read(self, receive: Receive, length: int | None) -> bytes:
        """The body.

        Raises:
            Refusal: it is too large; _Gone: the client is.
        """
        message = await receive()
        if message["type"] != "http.request":
            raise _Gone
        body: bytes = message["body"]
        if not message["more_body"]:
            self._check_size(len(body))
            return body
        parts, size = [body], len(body)
        counted = 0
        try:
            while True:
                self._check_size(size, counted)
                self.held_bytes += len(parts[-1])
                counted = size
                message = await receive()
                if message["type"] != "http.request":
                    raise _Gone
                parts.append(message["body"])
                size += len(parts[-1])
                if not message["more_body"]:
                    self._check_size(size, counted)
                    return b"".join(parts)
        finally:
            self.held_bytes -= counted

    def _check_size(self, size: int | None, counted: int = 0) -> None:
        """Refuse a body of so many bytes, of which so many are counted among those that are held."""
        most = self._limits.max_body_bytes
        if size is None:
            return
        if size > most:
            hint = f"send at most {most} bytes at once (the server's max_body_bytes)"
            raise Refusal(413, "too_large", f"the body has {size} bytes or more", hint=hint)
        if self.held_bytes - counted + size > self._limits.max_held_bytes:
            raise later("too_many_requests", "too many bytes are being answered (max_held_bytes)")


@dataclass(frozen=True)
class _Query:
    """What may stand behind the address."""

    labelled: bool = False
    timeout_s: float = float("inf")


_NOTHING = _Query()


def _query(text: bytes) -> _Query:
    if not text:
        return _NOTHING
    found: dict[str, Any] = {}
    for key, value in parse_qsl(text.decode("latin-1"), keep_blank_values=True, max_num_fields=None):
        if key == "labelled" and value in ("true", "false"):
            found["labelled"] = value == "true"
        elif key == "timeout_ms" and value.isascii() and value.isdigit() and len(value) < 10:
            found["timeout_s"] = int(value) / 1000
        else:
            problem = f"{key[:40]!a} = {value[:40]!a} is not understood"
            hint = "there are labelled=true and timeout_ms=MILLISECONDS"
            raise Refusal(400, "bad_request", problem, hint=hint)
    return _Query(**found)


def _headers(headers: Sequence[tuple[bytes, bytes]], query: _Query) -> tuple[Parse, str, int | None]:
    """What reads the body, what the answer is to be, and how many bytes are announced."""
    content_type = accept = encoding = b""
    length: int | None = None
    for key, value in headers:
        if key == b"content-type":
            content_type = value
        elif key == b"accept":
            accept = value
        elif key == b"content-encoding":
            encoding = value
        elif key == b"content-length":
            length = int(value)  # the parser of headers has refused others
    if encoding and encoding.lower() != b"identity":
        problem = f"content encoding {encoding.decode('latin-1')[:40]!a} is not understood"
        raise Refusal(415, "media_type", problem, hint="send the body as it is, not compressed")
    parse = parser_of(content_type.decode("latin-1"), labelled=query.labelled)
    return parse, answer_type(accept.decode("latin-1")), length
