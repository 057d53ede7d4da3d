"""What ``serve`` can be told."""

from __future__ import annotations

import os
import re
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from dlrm.config.base import Advanced, NonNegativeFloat, NonNegativeInt, Number, PositiveFloat, PositiveInt, Section
from dlrm.config.data.paths import InputPath
from dlrm.format import escaped

DEFAULT_NAME = "default"
_NAME = re.compile(r"[A-Za-z0-9][\w.-]{0,63}", re.ASCII)


def _named(value: object) -> object:
    """``a=exports/a,b=exports/b`` is a mapping; a path alone is the model ``default``."""
    if not isinstance(value, str):
        return value
    if "=" not in value or os.path.isdir(os.path.expanduser(value)):
        return {DEFAULT_NAME: value}
    models: dict[str, Any] = {}
    for part in value.split(","):
        name, equals, path = part.strip().partition("=")
        if not equals or not path:
            raise ValueError(f"has {escaped(part, 40)!r}, which is not name=path")
        if name in models:
            raise ValueError(f"names {escaped(name, 40)} twice")
        models[name] = path
    return models


def _sound(models: dict[str, str]) -> dict[str, str]:
    if not models:
        raise ValueError("is empty; name at least one export")
    for name in models:
        if not _NAME.fullmatch(name):
            raise ValueError(f"has the name {escaped(name, 40)!r}; use letters, digits, '.', '_' and '-', 64 at most")
    return models


Models = Annotated[dict[str, InputPath], BeforeValidator(_named), AfterValidator(_sound)]
Port = Annotated[int, Number, Field(ge=0, le=65535)]


class ServeConfig(Section):
    """Exports over HTTP, until SIGTERM or Ctrl-C; nothing but CPUs is used."""

    models: Models
    """The exports and their names in addresses: name=path,... A path alone is the model `default`. A path may be a symbolic
    link: what it leads to is replaced without a lost request."""
    host: str = "127.0.0.1"
    """Address to listen on; 0.0.0.0 for all. There is no authentication and no TLS: put a proxy before others."""
    port: Port = 8000
    """Port to listen on; 0: any, which is printed."""
    threads: NonNegativeInt = 0
    """Threads that compute, shared by all models; 0: one for each core."""
    max_batch_rows: PositiveInt = 256
    """Rows that are computed at once."""
    max_wait_ms: NonNegativeFloat = 0.0
    """How long a request waits for others to be computed with; 0: a batch is what waits when a thread is free."""
    max_queue_rows: PositiveInt = 16384
    """Rows that may wait for a model; what would be more is answered with 503 at once."""
    timeout_ms: PositiveFloat = 1000.0
    """How long a request may wait before it is computed; one that waits longer is answered with 504 and not computed."""
    max_request_rows: PositiveInt = 8192
    """Rows of a request; more are answered with 413."""
    max_body_bytes: PositiveInt = 8 << 20
    """Bytes of a request's body; more are answered with 413."""
    reload_s: NonNegativeFloat = 5.0
    """Seconds between two looks at whether an export was replaced; 0: only on SIGHUP."""
    drain_s: PositiveFloat = 30.0
    """Seconds that requests may take to be answered after SIGTERM or Ctrl-C."""
    linger_s: NonNegativeFloat = 0.0
    """Seconds after SIGTERM in which requests are taken while /readyz says no, so that a load balancer can look away."""
    access_log: bool = False
    """Print a line of JSON for each request."""
    compiled: bool = False
    """Run the machine code of exports that hold it (export --compile true). To load it is to run it: trust the exports."""
    max_requests: Advanced[PositiveInt] = 4096
    """Requests that are read, waiting or computed at once; what would be more is answered with 503."""
    max_held_bytes: Advanced[PositiveInt] = 256 << 20
    """Bytes of all bodies that are in memory at once; what would be more is answered with 503."""
    max_connections: Advanced[PositiveInt] = 1024
    """Connections at once; what would be more is answered with 503 and closed."""
    header_s: Advanced[PositiveFloat] = 10.0
    """Seconds in which a request's headers must come, or the first byte on a new connection."""
    body_s: Advanced[PositiveFloat] = 30.0
    """Seconds in which a request's body must come, and in which a client must go on reading its answer."""
    keep_alive_s: Advanced[PositiveFloat] = 75.0
    """Seconds that a connection may stay open without a request."""

    @model_validator(mode="after")
    def _fits(self) -> ServeConfig:
        if self.max_request_rows > self.max_queue_rows:
            raise ValueError(
                f"max_request_rows ({self.max_request_rows}) is more than max_queue_rows ({self.max_queue_rows}), so that "
                "such a request could never wait"
            )
        if self.max_body_bytes > self.max_held_bytes:
            raise ValueError(
                f"max_body_bytes ({self.max_body_bytes}) is more than max_held_bytes ({self.max_held_bytes}), so that such "
                "a body could never be held"
            )
        return self
