import os
import socket
import sys
from pathlib import Path

import psutil
import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "launch"))
import interfaces  # noqa: E402

ADDRESSES = [
    (name, found.address)
    for name, all_found in psutil.net_if_addrs().items()
    for found in all_found
    if name != "lo" and found.family in (socket.AF_INET, socket.AF_INET6) and "%" not in found.address
]


@pytest.mark.skipif(not ADDRESSES, reason="this machine has no network but loopback")
@pytest.mark.parametrize(("name", "address"), ADDRESSES[:2])
def test_gloo_gets_the_interface_by_which_the_first_host_is_reached(monkeypatch, name, address):
    monkeypatch.setattr(os, "environ", {})
    interfaces.choose_for_gloo(address)
    assert os.environ == {"GLOO_SOCKET_IFNAME": name}


def test_the_user_s_interface_stays(monkeypatch):
    monkeypatch.setattr(os, "environ", {"GLOO_SOCKET_IFNAME": "ib0"})
    interfaces.choose_for_gloo("127.0.0.1")
    assert os.environ == {"GLOO_SOCKET_IFNAME": "ib0"}


def test_a_host_whose_own_name_is_that_of_loopback_takes_the_default_route(monkeypatch):
    monkeypatch.setattr(os, "environ", {})
    monkeypatch.setattr(interfaces, "_source_of", {"me": "127.0.1.1", "192.0.2.1": "10.0.0.7"}.get)
    monkeypatch.setattr(interfaces, "_ipv4_of", {"eth0": "10.0.0.7", "ib0": "10.1.0.7"}.get)
    monkeypatch.setattr(interfaces, "_ipv6_of", lambda name: [])
    monkeypatch.setattr(socket, "if_nameindex", lambda: [(1, "lo"), (2, "ib0"), (3, "eth0")])
    interfaces.choose_for_gloo("me")
    assert os.environ == {"GLOO_SOCKET_IFNAME": "eth0"}


def test_what_is_not_known_is_left_to_gloo(monkeypatch):
    monkeypatch.setattr(os, "environ", {})
    monkeypatch.setattr(interfaces, "_source_of", lambda host: "")
    interfaces.choose_for_gloo("no.such.host.invalid")
    assert os.environ == {}
