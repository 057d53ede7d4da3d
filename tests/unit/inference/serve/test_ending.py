"""The end of a server, as clients see it that keep their connections."""

import http.client
import json
import threading
import time

import pytest

from tests.support.serving import PATIENCE_S, ServerHere

PATH = "/v1/models/default/predict"
CLIENTS = 6


class Client:
    """Asks on one connection until the server says that it closes it.

    Attributes:
        answered: how many requests were; closed: whether the last answer said so; lost: what went wrong.
    """

    def __init__(self, port, body, pause_s):
        self._port, self._body, self._pause_s = port, body, pause_s
        self.answered, self.closed, self.lost = 0, False, ""
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()

    def _run(self):
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=PATIENCE_S)
        connection.connect()
        try:
            while not self.closed:
                connection.request("POST", PATH, self._body, {"Content-Type": "application/json"})
                answer = connection.getresponse()
                answer.read()
                assert answer.status == 200
                self.closed = answer.will_close
                self.answered += 1
                time.sleep(self._pause_s)
        except (OSError, http.client.HTTPException) as error:
            self.lost = repr(error)
        finally:
            connection.close()


@pytest.fixture(scope="module")
def body(tiny_model):
    return json.dumps({"rows": [tiny_model.version.preprocessing.example()]}).encode()


def ended(server):
    server.end()
    server._thread.join(PATIENCE_S)
    assert not server._thread.is_alive()
    return server.server


@pytest.mark.parametrize("pause_s", [0.0, 0.2])
def test_no_client_that_keeps_its_connection_loses_a_request(tiny_model, body, pause_s):
    with ServerHere({"default": tiny_model}) as server:
        clients = [Client(server.port, body, pause_s) for _ in range(CLIENTS)]
        while any(client.answered < 2 and not client.lost for client in clients):
            time.sleep(0.01)
        assert not ended(server).cut_short
        for client in clients:
            client.thread.join(PATIENCE_S)
    assert [client.lost for client in clients] == [""] * CLIENTS
    assert all(client.closed for client in clients)


def stopped(server):
    """Whether it listens no more."""
    try:
        server.connect().close()
    except ConnectionRefusedError:
        return True
    return False


def test_a_request_of_which_the_first_bytes_have_come_is_answered(tiny_model, body):
    whole = f"POST {PATH} HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    sent = whole.encode() + body
    with ServerHere({"default": tiny_model}) as server:
        connections = [server.connect() for _ in range(3)]
        for connection, length in zip(connections, (1, 60, len(sent) - 1), strict=True):
            connection.sendall(sent[:length])
        while server.ask("GET", "/metrics")[2].count(b"dlrm_connections 4.0") == 0:
            time.sleep(0.01)
        server.end()
        while not stopped(server):
            time.sleep(0.01)
        time.sleep(1.2)  # longer than what is idle is kept
        for connection, length in zip(connections, (1, 60, len(sent) - 1), strict=True):
            connection.sendall(sent[length:])
            content = b""
            while part := connection.recv(1 << 16):
                content += part
            assert content.startswith(b"HTTP/1.1 200 "), content
            assert b"connection: close" in content
            connection.close()
        assert not ended(server).cut_short


def test_pipelined_requests_are_all_answered_and_only_the_last_answer_closes(tiny_model):
    ask = b"GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n"
    with ServerHere({"default": tiny_model}, linger_s=0.3) as server, server.connect() as connection:
        connection.sendall(ask)
        assert connection.recv(1 << 16).startswith(b"HTTP/1.1 200 ")
        server.end()
        while server.ask("GET", "/readyz")[0] == 200:
            time.sleep(0.01)
        connection.sendall(ask * 3)
        content = b""
        while part := connection.recv(1 << 16):
            content += part
    assert content.count(b"HTTP/1.1 200 ") == 3
    assert content.count(b"connection: close") == 1


def test_who_says_nothing_is_left_soon_and_nothing_was_cut_short(tiny_model):
    with ServerHere({"default": tiny_model}) as server, server.connect() as silent:
        assert not ended(server).cut_short
        assert silent.recv(1) == b""


def test_who_does_not_finish_his_request_is_told_so_or_cut_off(tiny_model):
    with ServerHere({"default": tiny_model}, header_s=0.3) as server, server.connect() as slow:
        slow.sendall(b"G")
        assert not ended(server).cut_short
        assert slow.recv(1 << 16).startswith(b"HTTP/1.1 408 ")
    with ServerHere({"default": tiny_model}, drain_s=0.3) as server, server.connect() as slow:
        slow.sendall(b"G")
        while not any(one._receiving for one in list(server.server.server_state.connections)):
            time.sleep(0.01)
        assert ended(server).cut_short
