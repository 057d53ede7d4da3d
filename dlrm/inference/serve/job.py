"""``dlrm_main.py serve``: exports over HTTP."""

from __future__ import annotations

import asyncio
import gc
import ipaddress
import resource
import socket
import sys
from collections.abc import Callable
from functools import partial

import torch
import uvloop

from dlrm.config.serve import ServeConfig
from dlrm.inference.serve.app import Application, Readiness, make_routes
from dlrm.inference.serve.batcher import Workers
from dlrm.inference.serve.log import say
from dlrm.inference.serve.metrics import Metrics
from dlrm.inference.serve.models import Models, ServedModel
from dlrm.inference.serve.predict import Predict, RequestLimits, deliver_to
from dlrm.inference.serve.protocol import ConnectionLimits
from dlrm.inference.serve.reloading import Reloading
from dlrm.inference.serve.server import Server, bound, listen, uvicorn_config
from dlrm.inference.serve.waiting import Limits

SWITCH_S = 0.0005
"""Python's switch interval: while an export is loaded, threads that compute wait so long for the interpreter, not 5 ms."""
_FURTHER_FILES = 128


def run_serve(config: ServeConfig) -> None:
    """Serve until a signal.

    Raises:
        ExportError: of the first export that cannot be served; SetupError: the address cannot be listened on.
        SystemExit: requests were dropped, because they took too long or a second signal came.
    """
    with bound(config.host, config.port) as listening:
        _allow_files(config.max_connections)
        torch.set_num_threads(1)
        sys.setswitchinterval(SWITCH_S)
        models = {name: ServedModel.load(name, path, compiled=config.compiled) for name, path in config.models.items()}
        gc.collect()
        gc.freeze()  # what is here stays; collections need not look at it again
        host = listening.getsockname()[0]
        if not ipaddress.ip_address(host).is_loopback:
            say(f"warning: {host} can be reached from elsewhere, and there is no authentication and no TLS")
        for name, model in models.items():
            say(f"{name}: {model.version}")
        listen(listening)
        server = uvloop.run(serve_models(config, models, listening, begun=partial(_say_where, listening)))
    if server.cut_short:
        assert server.stopped_by is not None
        raise SystemExit(128 + server.stopped_by)
    say("ended: every request was answered")


async def serve_models(
    config: ServeConfig, models: Models, listening: socket.socket, *, begun: Callable[[Server], None]
) -> Server:
    """Serve until the server is ended.

    Args:
        config: how.
        models: that are there already.
        listening: socket.
        begun: told of the server before it takes the first request.

    Returns:
        The server that was.
    """
    loop = asyncio.get_running_loop()
    metrics, readiness = Metrics(models), Readiness()
    workers = Workers(
        Limits(config.max_batch_rows, config.max_wait_ms / 1000, config.max_queue_rows),
        threads=config.threads,
        deliver=deliver_to(loop),
        observe=metrics.computed,
    )
    limits = RequestLimits(
        max_rows=config.max_request_rows,
        max_body_bytes=config.max_body_bytes,
        max_requests=config.max_requests,
        max_held_bytes=config.max_held_bytes,
        timeout_s=config.timeout_ms / 1000,
    )
    predict = Predict(models, workers, limits, metrics)
    application = Application(predict, make_routes(models, metrics, readiness), access_log=config.access_log)
    connections = ConnectionLimits(config.max_connections, config.header_s, config.body_s, config.keep_alive_s)
    reloading = Reloading(models, every_s=config.reload_s, tell=metrics.loaded)
    server = Server(
        uvicorn_config(application, connections, drain_s=config.drain_s, tell=metrics.rejected),
        readiness=readiness,
        linger_s=config.linger_s,
        reload=reloading.ask,
    )
    metrics.gauge("dlrm_requests_in_flight", "Requests for predictions that are here.", lambda: predict.requests)
    metrics.gauge("dlrm_held_bytes", "Bytes of bodies that are here.", lambda: predict.held_bytes)
    metrics.gauge("dlrm_connections", "Connections.", lambda: len(server.server_state.connections))
    metrics.gauge("dlrm_ready", "Whether requests are wanted.", lambda: not readiness.problem)
    begun(server)
    await server.serve(sockets=[listening])
    reloading.close()
    workers.close(drain=False, timeout_s=0)
    return server


def _say_where(listening: socket.socket, server: Server) -> None:
    host, port = listening.getsockname()[:2]
    say(f"serving at http://{f'[{host}]' if ':' in host else host}:{port} (Ctrl-C ends)")


def _allow_files(connections: int) -> None:
    """Let the process open as many files as there may be connections, as far as the system lets it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = connections + _FURTHER_FILES
    if soft != resource.RLIM_INFINITY and soft < wanted:
        allowed = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, hard))
        if allowed < wanted:
            say(f"warning: this process may open {allowed} files only, fewer than max_connections; see ulimit -n")
