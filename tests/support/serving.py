"""A server of exports in a thread of this process, and plain requests to it."""

from __future__ import annotations

import http.client
import json
import signal
import socket
import threading
from collections.abc import Callable, Mapping
from typing import Any

import uvloop

from dlrm.config.serve import ServeConfig
from dlrm.inference.serve.job import serve_models
from dlrm.inference.serve.models import ServedModel
from dlrm.inference.serve.server import Server, bound, listen

PATIENCE_S = 60.0


class ServerHere:
    """Use it as a context.

    Args:
        models: what answers.
        options: of :class:`~dlrm.config.serve.ServeConfig`.

    Attributes:
        port: of 127.0.0.1; server: that listens there.
    """

    def __init__(self, models: Mapping[str, ServedModel], **options: Any) -> None:
        paths = {name: model.path for name, model in models.items()}
        self._config = ServeConfig(models=paths, port=0, **{"threads": 2, "reload_s": 0, **options})
        self._models = models
        self._begun = threading.Event()
        self.server: Server | None = None

    def __enter__(self) -> ServerHere:
        self._socket = bound(self._config.host, 0)
        self.port = int(self._socket.getsockname()[1])
        listen(self._socket)
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        assert self._begun.wait(PATIENCE_S)
        return self

    def __exit__(self, *_: object) -> None:
        self.end()
        self._thread.join(PATIENCE_S)
        assert not self._thread.is_alive()

    def end(self) -> None:
        """As on SIGTERM, without waiting for it."""
        assert self.server is not None
        if self.server.stopped_by is None:
            self._loop.call_soon_threadsafe(self.server.end, signal.SIGTERM)

    def in_loop(self, call: Callable[..., object], *arguments: object) -> None:
        """Call it in the server's thread, and wait for that."""
        done = threading.Event()
        self._loop.call_soon_threadsafe(call, *arguments)
        self._loop.call_soon_threadsafe(done.set)
        assert done.wait(PATIENCE_S)

    def ask(
        self, method: str, path: str, body: bytes | None = None, **headers: str
    ) -> tuple[int, dict[str, str], bytes]:
        """Status, headers (lower case) and body of an answer; ``content_type`` is the header Content-Type."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE_S)
        try:
            sent = {key.replace("_", "-"): value for key, value in headers.items()}
            connection.request(method, path, body, sent)
            answer = connection.getresponse()
            return answer.status, {key.lower(): value for key, value in answer.getheaders()}, answer.read()
        finally:
            connection.close()

    def predict(self, content: object, name: str = "default", query: str = "") -> tuple[int, Any]:
        """Status and content of the answer to JSON."""
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        path = f"/v1/models/{name}/predict{query}"
        status, _, answer = self.ask("POST", path, body, content_type="application/json")
        return status, json.loads(answer)

    def connect(self) -> socket.socket:
        """A connection for bytes of any kind."""
        return socket.create_connection(("127.0.0.1", self.port), PATIENCE_S)

    def _run(self) -> None:
        uvloop.run(serve_models(self._config, self._models, self._socket, begun=self._has_begun))

    def _has_begun(self, server: Server) -> None:
        import asyncio

        self.server, self._loop = server, asyncio.get_running_loop()
        self._begun.set()


def error_of(content: bytes | Mapping[str, Any]) -> dict[str, Any]:
    """What an answer says is wrong; it must be of the form that the documentation promises."""
    found = json.loads(content) if isinstance(content, bytes) else content
    assert set(found) == {"error"}
    error: dict[str, Any] = found["error"]
    assert set(error) == {"row", "column", "problem", "hint"}
    assert error["problem"]
    return error
