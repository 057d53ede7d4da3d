"""A server from its start to its end: listening, signals, draining."""

from __future__ import annotations

import asyncio
import logging
import select
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import cast

import uvicorn

from dlrm.errors import SetupError
from dlrm.inference.serve.app import Readiness
from dlrm.inference.serve.log import say
from dlrm.inference.serve.predict import Receive, Scope, Send
from dlrm.inference.serve.protocol import BoundedProtocol, ConnectionLimits, protocol_of
from dlrm.inference.serve.refusal import Cause

_BACKLOG = 2048
_SWEEP_TICKS = 5  # of a tenth of a second
_DRAIN_TICK_S = 0.02
_IDLE_TICKS = 50  # ticks, not seconds: a process that was paused gives its clients their time afterwards
_LAST_S = 0.1  # before the time to drain is over


def bound(host: str, port: int) -> socket.socket:
    """A socket with this address, which does not listen yet: nobody is kept waiting while exports are loaded.

    Raises:
        SetupError: the address is somebody else's, or none.
    """
    with _refused(host, port):
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        made = socket.socket(family, kind, protocol)
        try:
            made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            made.bind(address)
        except OSError:
            made.close()
            raise
    return made


def listen(made: socket.socket) -> None:
    """Have it listen.

    Raises:
        SetupError: another process listens there meanwhile.
    """
    host, port = made.getsockname()[:2]
    with _refused(host, port):
        made.listen(_BACKLOG)
    made.setblocking(False)


@contextmanager
def _refused(host: str, port: int) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise SetupError(
            f"cannot listen on {host}:{port} ({error.strerror}); give --host and --port another address, "
            "--port 0 takes any free one"
        ) from None


class Server(uvicorn.Server):
    """uvicorn's server with our signals, and a sweep over its connections.

    Args:
        config: uvicorn's.
        readiness: is told that the server ends.
        linger_s: between the first signal to stop and the end of listening.
        reload: called on SIGHUP.

    Attributes:
        stopped_by: the signal that ended it; None while it serves.
        cut_short: whether requests were dropped: a second signal came, or draining took too long.
    """

    def __init__(
        self, config: uvicorn.Config, *, readiness: Readiness, linger_s: float, reload: Callable[[], None]
    ) -> None:
        super().__init__(config)
        self._readiness, self._linger_s, self._reload = readiness, linger_s, reload
        self.stopped_by: signal.Signals | None = None
        self.cut_short = False

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Take SIGTERM, Ctrl-C and SIGHUP over; what is ignored stays so."""
        loop = asyncio.get_running_loop()
        taken = []
        is_main = threading.current_thread() is threading.main_thread()
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP) if is_main else ():
            if signal.getsignal(number) != signal.SIG_IGN:
                loop.add_signal_handler(number, self._take, number)
                taken.append(number)
        try:
            yield
        finally:
            for number in taken:
                loop.remove_signal_handler(number)

    def _take(self, number: signal.Signals) -> None:
        if number == signal.SIGHUP:
            self._reload()
        elif self.stopped_by is None:
            self.end(number)
        else:
            self.cut_short = self.should_exit = self.force_exit = True

    def end(self, number: signal.Signals) -> None:
        """Answer what is here, and no more; in the loop's thread."""
        self.stopped_by = number
        self._readiness.problem = "ending"
        for connection in self._connections():
            connection.finish()
        say(f"{number.name}: answering what is here, then ending ({number.name} again ends at once)")
        asyncio.get_running_loop().call_later(self._linger_s, self._stop)

    def _stop(self) -> None:
        self.should_exit = True

    async def on_tick(self, counter: int) -> bool:
        """See uvicorn."""
        if counter % _SWEEP_TICKS == 0:
            self._sweep()
        return await super().on_tick(counter)

    def _connections(self) -> list[BoundedProtocol]:
        return cast(list[BoundedProtocol], list(self.server_state.connections))

    def _sweep(self) -> None:
        now_s = time.monotonic()
        for connection in self._connections():
            connection.look(now_s)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """See uvicorn, which would close every connection on which no request has come as a whole."""
        for listening in self.servers:
            listening.close()
        deadline_s = time.monotonic() + cast(float, self.config.timeout_graceful_shutdown)
        await self._drain(deadline_s)
        unanswered = bool(self.server_state.connections)
        left_s = 0.0 if unanswered else deadline_s - time.monotonic()  # for those whose client has left
        self.config.timeout_graceful_shutdown = max(0.1, left_s)  # type: ignore[assignment]  # which it only waits for
        await super().shutdown(sockets)
        # What did not end in time was cancelled, and its answers were dropped.
        self.cut_short = self.cut_short or unanswered or bool(self.server_state.tasks)

    async def _drain(self, deadline_s: float) -> None:
        """Until all connections are closed: after their next answer, or after a second in which nothing is asked."""
        tick = 0
        while self.server_state.connections and not self.force_exit and (now_s := time.monotonic()) < deadline_s:
            for connection in self._connections():
                connection.finish()
            self._sweep()
            if tick >= _IDLE_TICKS or now_s > deadline_s - _LAST_S:
                _close_silent(self._connections())
            await asyncio.sleep(_DRAIN_TICK_S)
            tick += 1


def _close_silent(connections: Sequence[BoundedProtocol]) -> None:
    """Close those on which nothing has come; to close one with unread bytes would reset it, and lose the request."""
    silent = {
        connection.transport.get_extra_info("socket").fileno(): connection
        for connection in connections
        if connection.is_idle and not connection.transport.is_closing()
    }
    arrived = select.poll()
    for number in silent:
        arrived.register(number, select.POLLIN)
    for number, _ in arrived.poll(0):
        del silent[number]  # the loop reads it next
    for connection in silent.values():
        connection.transport.close()


def uvicorn_config(
    application: Callable[[Scope, Receive, Send], object],
    limits: ConnectionLimits,
    *,
    drain_s: float,
    tell: Callable[[Cause], None],
) -> uvicorn.Config:
    """How uvicorn is to serve it."""
    logging.getLogger("uvicorn.error").setLevel(logging.ERROR)  # its warnings are about what clients do
    return uvicorn.Config(
        application,
        loop="uvloop",
        http=protocol_of(limits, tell),
        ws="none",
        lifespan="off",
        interface="asgi3",
        log_config=None,
        access_log=False,
        proxy_headers=False,
        server_header=False,
        timeout_keep_alive=int(limits.keep_alive_s) + 1,  # the sweep's is exact
        timeout_graceful_shutdown=drain_s,  # type: ignore[arg-type]  # which it only waits for
    )
