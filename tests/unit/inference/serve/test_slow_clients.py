"""Clients that keep a server waiting, and connections that are too many."""

import time

import pytest

from tests.support.serving import PATIENCE_S, ServerHere

HEAD = b"POST /v1/models/default/predict HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\n"


@pytest.fixture(scope="module")
def strict(tiny_model):
    options = {"header_s": 0.6, "body_s": 0.6, "max_connections": 6, "max_body_bytes": 1000}
    with ServerHere({"default": tiny_model}, **options) as running:
        yield running


def received(connection):
    """All that comes until the server closes."""
    content = b""
    try:
        while part := connection.recv(65536):
            content += part
    except ConnectionResetError:
        pass
    return content


def wait_until(true):
    """Look again and again, for as long as a busy machine may need."""
    deadline_s = time.monotonic() + PATIENCE_S
    while not true():
        assert time.monotonic() < deadline_s
        time.sleep(0.01)


def status(content):
    return int(content.split(b" ", 2)[1]) if content else None


@pytest.mark.parametrize(
    ("sent", "expected"),
    [
        (b"", None),
        (b"\r\n", None),
        (b"G", 408),
        (HEAD, 408),
        (HEAD + b"Content-Length: 10\r\n\r\n", 408),
        (HEAD + b"Content-Length: 10\r\n\r\n{", 408),
        (HEAD + b"Transfer-Encoding: chunked\r\n\r\n1\r\n{\r\n", 408),
    ],
)
def test_who_sends_too_little_is_told_and_left(strict, sent, expected):
    with strict.connect() as connection:
        started = time.monotonic()
        connection.sendall(sent)
        content = received(connection)
        assert status(content) == expected, content
        assert time.monotonic() - started >= 0.6


@pytest.mark.parametrize("before", [b"", HEAD + b"Content-Length: 1000\r\n\r\n"])
def test_who_sends_a_byte_now_and_then_is_left_all_the_same(strict, before):
    started = time.monotonic()
    with strict.connect() as connection:
        connection.sendall(before)
        try:
            for byte in HEAD if not before else b" " * 1000:
                connection.sendall(bytes([byte]))
                time.sleep(0.05)
        except OSError:
            pass
        assert time.monotonic() - started < PATIENCE_S
        assert status(received(connection)) in (408, None)


def test_an_idle_connection_is_kept_for_its_time(strict):
    with strict.connect() as connection:
        for _ in range(2):
            connection.sendall(b"GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n")
            content = b""
            while not content.endswith(b"}"):
                part = connection.recv(1000)
                assert part
                content += part
            assert status(content) == 200
        (kept,) = (one for one in strict.server.server_state.connections if one.is_idle)
        now_s, keep_alive_s = time.monotonic(), kept.limits.keep_alive_s
        strict.in_loop(kept.look, now_s + keep_alive_s - 10)
        assert not kept.transport.is_closing()
        strict.in_loop(kept.look, now_s + keep_alive_s + 10)
        assert received(connection) == b""


@pytest.mark.parametrize("announced", [b"Content-Length: 1000000\r\n\r\n", b"Transfer-Encoding: chunked\r\n\r\n"])
def test_a_body_that_is_too_large_is_refused_before_it_has_come(strict, announced):
    with strict.connect() as connection:
        connection.sendall(HEAD + announced)
        if b"chunked" in announced:
            connection.sendall(b"800\r\n" + b" " * 0x800 + b"\r\n")
        assert status(connection.recv(65536)) == 413
        assert (
            received(connection) == b""
        )  # what else would have come is waited for, and no longer than a body may take


def test_headers_are_bounded(strict):
    with strict.connect() as connection:
        try:
            connection.sendall(HEAD)
            for number in range(100):
                connection.sendall(b"X-%d: %s\r\n" % (number, b"a" * 4000))
        except OSError:
            pass
        assert status(received(connection)) in (431, None)
    assert strict.ask("GET", "/healthz")[0] == 200


def test_connections_are_bounded(strict):
    wait_until(lambda: not strict.server.server_state.connections)
    connections = [strict.connect() for _ in range(6)]
    for connection in connections:  # their headers have begun and may take their time from now on
        connection.sendall(b"G")
    wait_until(lambda: len(strict.server.server_state.connections) == 6)
    with strict.connect() as one_more:
        content = received(one_more)
        assert status(content) == 503
        assert b"retry-after: 1" in content
    for connection in connections:
        connection.close()
    wait_until(lambda: not strict.server.server_state.connections)
    assert strict.ask("GET", "/healthz")[0] == 200


@pytest.mark.parametrize(
    "sent",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(40),  # TLS
        b"SSH-2.0-OpenSSH_9.6\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"GET  HTTP/1.1\r\n\r\n",
        b"CONNECT a:1 HTTP/1.1\r\nHost: a\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        HEAD + b"Content-Length: -1\r\n\r\n",
        HEAD + b"Content-Length: 1\r\nContent-Length: 2\r\n\r\n{}",
        HEAD + b"Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        HEAD + b"Transfer-Encoding: gzip\r\n\r\n",
        HEAD + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n",
        HEAD + b"Bad header\r\n\r\n",
        b"GET /%ff%fe HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n",
    ],
)
def test_what_is_not_http_gets_a_400_or_404(strict, sent):
    with strict.connect() as connection:
        connection.sendall(sent)
        assert status(received(connection)) in (400, 404)


LONG = b"X-A: " + b"a" * 60_000 + b"\r\n"


@pytest.mark.parametrize("long", [LONG * 2, b"X: a\r\n" * 20_000])
def test_headers_that_come_at_once_with_their_body_are_bounded_too(strict, long):
    with strict.connect() as connection:
        connection.sendall(HEAD + b"Connection: close\r\nContent-Length: 2\r\n" + LONG + b"\r\n{}")
        assert status(received(connection)) == 422  # read, and found to be no rows
    with strict.connect() as connection:
        connection.sendall(HEAD + b"Content-Length: 2\r\n" + long + b"\r\n{}")
        assert status(received(connection)) == 431


@pytest.mark.parametrize(
    "body", [b"Content-Length: 2\r\n\r\n{}", b"Transfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n"]
)
def test_a_body_that_would_be_lost_to_an_upgrade_is_refused(strict, body):
    """Java's client asks for HTTP/2 with its first request unless told otherwise."""
    upgrade = b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQ\r\n"
    with strict.connect() as connection:
        connection.sendall(HEAD + upgrade + body)
        content = received(connection)
        assert status(content) == 400
        assert b"without a header Upgrade" in content
    with strict.connect() as connection:
        connection.sendall(
            b"GET /healthz HTTP/1.1\r\nHost: a\r\n" + upgrade.replace(b"\r\n", b", close\r\n", 1) + b"\r\n"
        )
        assert status(received(connection)) == 200


@pytest.mark.parametrize(
    ("start", "endless"),
    [
        pytest.param(b"0\r\n", LONG, id="trailers"),
        pytest.param(b"0\r\nX: ", b"a" * 60_000, id="one trailer"),
        pytest.param(b"2;a=", b"a" * 60_000, id="an extension"),
    ],
)
def test_what_surrounds_chunks_is_bounded_too(strict, start, endless):
    """The parser keeps trailers, however many there are."""
    before = HEAD + b"Connection: close\r\nTransfer-Encoding: chunked\r\n\r\n" + b"1\r\n{\r\n" * 5
    with strict.connect() as connection:
        connection.sendall(before + b"0;a=b\r\nX: y\r\n\r\n")
        assert status(received(connection)) == 400  # read as a whole: {{{{{ is no JSON
    with strict.connect() as connection:
        connection.sendall(before + start)
        sent = 0
        try:
            while sent < 100e6:
                connection.sendall(endless)
                sent += len(endless)
        except OSError:
            pass
        assert sent < 50e6  # what the kernel's buffers hold, at most
        assert status(received(connection)) in (431, None)  # closing with bytes unread may lose what was said
