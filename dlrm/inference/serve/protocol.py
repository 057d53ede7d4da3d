"""uvicorn's HTTP protocol with bounds on what a client may make the server wait for.

uvicorn closes connections that stay idle after an answer, and nothing else: a client that sends a byte now and then keeps
its connection for ever, and headers may be as long as it likes. Here a sweep, once in a while, looks at every connection;
a request in time costs nothing but a few assignments.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle

from dlrm.inference.serve.refusal import Cause, Refusal


@dataclass(frozen=True)
class ConnectionLimits:
    """See :class:`dlrm.config.serve.ServeConfig`.

    Attributes:
        max_header_bytes: of a request's headers with its first line.
    """

    max_connections: int
    header_s: float
    body_s: float
    keep_alive_s: float
    max_header_bytes: int = 64 << 10


class BoundedProtocol(HttpToolsProtocol):
    """A connection. :func:`protocol_of` makes a subclass with limits."""

    limits: ConnectionLimits
    tell: Callable[[Cause], None]  # of each request that is refused here
    _receiving = _headers_done = _answered = _ended = _ending = False
    _last: RequestResponseCycle | None = None  # after whose answer the connection is closed, because the server ends
    _since_s = 0.0  # when what is waited for now began
    _unread_since_s: float | None = None
    _header_bytes = 0  # that have come since the last of a body, or of the headers
    _advanced = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """See :class:`asyncio.Protocol`."""
        self._since_s = time.monotonic()
        super().connection_made(transport)
        if len(self.connections) > self.limits.max_connections:
            problem = f"there are {self.limits.max_connections} connections (max_connections)"
            self._end(Refusal(503, "too_many_requests", problem, hint="ask again later", retry_after_s=1))

    def data_received(self, data: bytes) -> None:
        """See :class:`asyncio.Protocol`."""
        if self.transport.is_closing():
            return
        self._advanced = False
        super().data_received(data)
        if self._advanced or not self._receiving:
            self._header_bytes = 0
            return
        self._header_bytes += len(data)
        if self._header_bytes > self.limits.max_header_bytes:
            self._end_long_headers()

    def eof_received(self) -> bool:  # type: ignore[override]  # uvicorn's never keeps the connection
        """The client sends no more; what it has asked for is answered all the same."""
        self._ended = True
        return self._is_answering

    def finish(self) -> None:
        """The server ends: the next answer says that the connection is closed after it, and so it is."""
        if self._ending:
            return
        self._ending = True
        if self.cycle is not None and not self.cycle.response_complete:
            self._close_after_last()

    def _close_after_last(self) -> None:
        if self._last is not None and not self._last.response_started:
            self._last.keep_alive = True  # another request has come behind it, and is answered too
        self._last = self.cycle if self.cycle.keep_alive else None
        self.cycle.keep_alive = False  # for which uvicorn sends the header

    @property
    def is_idle(self) -> bool:
        """Whether nothing of a request has come that is not answered."""
        return not self._receiving and (self.cycle is None or self.cycle.response_complete)

    @property
    def _is_answering(self) -> bool:
        """Whether a request has come as a whole whose answer has not left as a whole."""
        return self.cycle is not None and not self.cycle.response_complete and not self._receiving

    def send_400_response(self, msg: str) -> None:
        """What cannot be parsed as HTTP."""
        self._end(Refusal(400, "bad_request", "the request is not HTTP/1.1", hint="see RFC 9112"))

    def _end_long_headers(self) -> None:
        problem = f"headers, trailers or the extensions of a chunk have more than {self.limits.max_header_bytes} bytes"
        self._end(Refusal(431, "too_large", problem, hint="send fewer"))

    def on_message_begin(self) -> None:
        """The first byte of a request."""
        super().on_message_begin()
        self._receiving, self._headers_done, self._since_s = True, False, time.monotonic()

    def on_header(self, name: bytes, value: bytes) -> None:
        """A header. Nobody reads those that follow a body in chunks, so they are not kept."""
        if not self._headers_done:
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """The empty line."""
        self._headers_done = self._advanced = True
        self._since_s = time.monotonic()
        if self.transport.is_closing():  # what came before it in the same bytes was refused
            return
        # They may have come at once with the body, before :meth:`data_received` has counted them.
        if self._bytes_of_headers > self.limits.max_header_bytes:
            self._end_long_headers()
        elif self.parser.should_upgrade() and self._announces_body():  # of which the parser gives nothing
            problem = "the request has a body and asks for another protocol (Upgrade or CONNECT)"
            self._end(Refusal(400, "bad_request", problem, hint="ask in HTTP/1.1 without a header Upgrade"))
        else:
            super().on_headers_complete()
            if self._ending:
                self._close_after_last()

    @property
    def _bytes_of_headers(self) -> int:
        separators = 4  # ": " and the end of the line
        return len(self.url) + sum(len(name) + len(value) + separators for name, value in self.headers)

    def _announces_body(self) -> bool:
        return any(
            name == b"transfer-encoding" or (name == b"content-length" and int(value)) for name, value in self.headers
        )

    def on_body(self, body: bytes) -> None:
        """Some of a body; that of a request that was refused is nobody's."""
        self._advanced = True
        if not self.transport.is_closing():
            super().on_body(body)

    def on_message_complete(self) -> None:
        """The last byte of a request."""
        if self.transport.is_closing():
            return
        super().on_message_complete()
        self._receiving, self._since_s = False, time.monotonic()

    def on_response_complete(self) -> None:
        """The last byte of an answer was written."""
        self._answered = True
        if not self._receiving:
            self._since_s = time.monotonic()
        super().on_response_complete()
        if self._ended and not self._is_answering:
            self.transport.close()

    def pause_writing(self) -> None:
        """The client does not read what is sent."""
        self._unread_since_s = time.monotonic()
        super().pause_writing()

    def resume_writing(self) -> None:
        """It has read."""
        self._unread_since_s = None
        super().resume_writing()

    def look(self, now_s: float) -> None:
        """Close the connection if its client has kept the server waiting for too long."""
        limits = self.limits
        if self._unread_since_s is not None:
            if now_s - self._unread_since_s > limits.body_s:
                self.transport.abort()
            return
        waited_s = now_s - self._since_s
        if self._receiving:
            body = self._headers_done
            if waited_s > (limits.body_s if body else limits.header_s):
                part = "body" if body else "headers"
                self._end(Refusal(408, "too_late", f"the request's {part} did not come in time", hint="send faster"))
            return
        if self.is_idle and waited_s > (limits.keep_alive_s if self._answered else limits.header_s):
            self.transport.close()

    def _end(self, refusal: Refusal) -> None:
        """Tell a client that is still waiting for an answer, and close."""
        waits = self.cycle is None or self.cycle.response_complete or not self.cycle.response_started
        told = self.cycle is not None and self.cycle.response_complete and self._headers_done and self._receiving
        if waits and not told and not self.transport.is_closing():
            body = refusal.body
            headers = [
                (b"content-type", b"application/json"),
                (b"content-length", str(len(body)).encode()),
                (b"connection", b"close"),
                *refusal.headers,
            ]
            lines = b"".join(b"%s: %s\r\n" % pair for pair in headers)
            self.tell(refusal.cause)
            self.transport.write(STATUS_LINE[refusal.status] + lines + b"\r\n" + body)
        self.transport.close()


def protocol_of(limits: ConnectionLimits, tell: Callable[[Cause], None]) -> type[BoundedProtocol]:
    """The protocol with these limits; ``tell`` is told of the requests that it refuses."""
    members: dict[str, Any] = {"limits": limits, "tell": staticmethod(tell)}
    return type("LimitedProtocol", (BoundedProtocol,), members)
