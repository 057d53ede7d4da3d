"""By which network interface this host reaches another one, for gloo, which would ask what the host's own name stands for.

Debian's /etc/hosts gives a host's own name an address of the loopback interface, where no other host is.
"""

from __future__ import annotations

import fcntl
import os
import socket
import struct
from contextlib import closing, suppress
from pathlib import Path

_SIOCGIFADDR = 0x8915  # linux/sockios.h
_ELSEWHERE = "192.0.2.1"  # TEST-NET-1, RFC 5737: what leaves for it takes the default route
_PORT = 9


def choose_for_gloo(first_host: str) -> None:
    """Set gloo's interface to the one towards the first host of a job, unless the user has set it."""
    if "GLOO_SOCKET_IFNAME" not in os.environ and (name := _interface_towards(first_host)):
        os.environ["GLOO_SOCKET_IFNAME"] = name


def _interface_towards(host: str) -> str:
    """Its name; empty if unknown. The first host may itself have the name of loopback: then that of the default route."""
    for there in (host, _ELSEWHERE):
        if name := _interface_of(_source_of(there)):
            return name
    return ""


def _source_of(host: str) -> str:
    """The address from which packets to a host leave; empty if there is none, or if they do not leave."""
    with suppress(OSError):
        family, kind, _, _, address = socket.getaddrinfo(host, _PORT, type=socket.SOCK_DGRAM)[0]
        with closing(socket.socket(family, kind)) as probe:
            probe.connect(address)  # of a datagram socket: sends nothing
            return str(probe.getsockname()[0])
    return ""


def _interface_of(address: str) -> str:
    """The interface with an address; empty for loopback's."""
    for _, name in socket.if_nameindex():
        if address and name != "lo" and address in (_ipv4_of(name), *_ipv6_of(name)):
            return name
    return ""


def _ipv4_of(name: str) -> str:
    with suppress(OSError), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asked:
        answer = fcntl.ioctl(asked.fileno(), _SIOCGIFADDR, struct.pack("256s", name.encode()))
        return socket.inet_ntoa(answer[20:24])
    return ""


def _ipv6_of(name: str, table: Path = Path("/proc/net/if_inet6")) -> list[str]:
    with suppress(OSError):
        lines = [line.split() for line in table.read_text().splitlines()]
        return [socket.inet_ntop(socket.AF_INET6, bytes.fromhex(line[0])) for line in lines if line[-1] == name]
    return []
