"""Opening torch's TCPStore: on the right interface at the host that serves it, patiently and audibly at the others."""

from __future__ import annotations

import errno
import ipaddress
import os
import socket
import stat
import sys
import threading
import time
from contextlib import closing, suppress
from datetime import timedelta

from telling import LaunchError, Waiting
from times import UNANSWERED_S
from torch.distributed import DistError, TCPStore

LOOPBACK = "127.0.0.1"
_NAME_PATIENCE_S = 60.0  # some schedulers publish names after hosts have started
_CONNECT_S = 5.0
_POLL_S = 1.0


def open_store(host: str, port: int, *, is_host: bool | None, timeout: timedelta, patience_s: float) -> TCPStore:
    """The store where the hosts of a job meet.

    Args:
        host: that serves it.
        port: on which.
        is_host: whether this host serves it; found out if None.
        timeout: of its operations.
        patience_s: how long to wait for the host that serves it.

    Raises:
        LaunchError: it cannot be served or reached.
    """
    if is_host or (is_host is None and is_this_host(host)):
        try:
            return serve(listen(host, port), timeout=timeout)
        except OSError as error:
            # Two launchers of one job may run on this host: the first serves, the second is a client.
            if error.errno != errno.EADDRINUSE or is_host:
                line = f"cannot listen on {host}:{port}, where the hosts shall meet: {error.strerror}"
                code = 1 if error.errno == errno.EADDRINUSE else 2  # the other may be gone at another start
                raise LaunchError(f"{line} (--rdzv-endpoint)", exit_code=code) from error
    _await(host, port, patience_s)
    store = _client(host, port, timeout)
    _notice_silence(port)
    return store


def listen(host: str, port: int) -> socket.socket:
    """A listening socket: on the interface of ``host`` if that is one of this host's addresses, on all if it is a name.

    A name may mean another address here than elsewhere; Debian's /etc/hosts gives a host's own name one of the loopback
    interface.
    """
    with suppress(ValueError):
        family = socket.AF_INET6 if ipaddress.ip_address(host).version == 6 else socket.AF_INET
        try:
            return socket.create_server((host, port), family=family)
        except OSError as error:
            if error.errno != errno.EADDRNOTAVAIL:  # else the address is translated on the way here
                raise
    if socket.has_dualstack_ipv6():
        return socket.create_server(("", port), family=socket.AF_INET6, dualstack_ipv6=True)
    return socket.create_server(("", port))


def serve(listener: socket.socket, *, timeout: timedelta) -> TCPStore:
    """Serve a store on a socket, which then belongs to the store."""
    host, port = listener.getsockname()[:2]
    own = LOOPBACK if host in ("0.0.0.0", "::") else host
    return TCPStore(
        own, port, is_master=True, wait_for_workers=False, timeout=timeout, master_listen_fd=listener.detach()
    )


def is_this_host(host: str) -> bool:
    """Whether a name or address is one of this host: packets to it would leave from that very address.

    A pod knows itself as dlrm-0, is called dlrm-0.service by the others, and may start before that name is published.
    """
    if socket.gethostname().split(".")[0] in (host, host.split(".")[0]):
        return True
    with suppress(OSError):
        for family, kind, _, _, address in socket.getaddrinfo(host, 9, type=socket.SOCK_DGRAM):
            with suppress(OSError), closing(socket.socket(family, kind)) as probe:
                probe.connect(address)  # of a datagram socket: sends nothing
                if probe.getsockname()[0] == address[0]:
                    return True
    return False


def _await(host: str, port: int, patience_s: float) -> None:
    """Return when something listens there."""
    waiting = Waiting(patience_s, "--rdzv-conf join_timeout=SECONDS")
    # A cluster that grows may take minutes to start the first pod, which has no name before.
    name_patience_s = patience_s if "KUBERNETES_SERVICE_HOST" in os.environ else _NAME_PATIENCE_S
    while True:
        name_is_wrong = False
        try:
            socket.create_connection((host, port), timeout=_CONNECT_S).close()
            return
        except socket.gaierror as error:
            name_is_wrong = True
            problem = f"{host} (--rdzv-endpoint) names no host that this one knows ({error.strerror})"
        except OSError as error:
            reason = error.strerror or "no answer"
            problem = f"the first host does not listen on {host}:{port} yet, or it is another ({reason})"
        if waiting.over or (name_is_wrong and waiting.waited_s > name_patience_s):
            raise LaunchError(f"{problem}; gave up after {waiting.waited_s:.0f} s")  # another start may meet it
        waiting.say(problem)
        time.sleep(_POLL_S)


def _client(host: str, port: int, timeout: timedelta) -> TCPStore:
    """A client of the store; where another program listens, torch's constructor may wait for ever for its answer."""
    connected: list[TCPStore] = []

    def connect() -> None:
        with suppress(DistError):
            connected.append(TCPStore(host, port, is_master=False, timeout=timeout))

    connecting = threading.Thread(target=connect, daemon=True)
    connecting.start()
    connecting.join(timeout.total_seconds())
    if not connected:
        raise LaunchError(f"{host}:{port} (--rdzv-endpoint) answers, but not as the launcher of the first host would")
    return connected[0]


def _notice_silence(port: int) -> None:
    """Have the kernel end the connections to that port of other hosts when nothing is acknowledged any more.

    Else a read would wait for up to a quarter of an hour when the other host is gone without a word. torch does not give
    its socket away, so it is looked for among those that are open.
    """
    if not sys.platform.startswith("linux"):
        return
    for name in os.listdir("/proc/self/fd"):
        with suppress(OSError):
            if not stat.S_ISSOCK(os.fstat(int(name)).st_mode):
                continue
            with closing(socket.socket(fileno=os.dup(int(name)))) as shared:
                if shared.type == socket.SOCK_STREAM and shared.getpeername()[1:2] == (port,):
                    shared.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
                    shared.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, UNANSWERED_S // 3)
                    shared.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, UNANSWERED_S // 3)
                    shared.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 1000 * UNANSWERED_S)
