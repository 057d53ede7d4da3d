"""``dlrm_main.py serve`` as a process: start, questions, a swap under load, signals, mistakes."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request

import pytest

from dlrm.inference.exported.folder import open_export
from dlrm.inference.exported.predictor import open_predictor
from tests.support.command import PROGRAM, run_command
from tests.support.exports import export, train
from tests.support.serving import PATIENCE_S

TRAINER = ("dlrm.train", "dlrm.models", "dlrm.sharding", "dlrm.optim", "torchrec")


@pytest.fixture(scope="module")
def exports(tmp_path_factory):
    """Two exports of one run, with and without averages."""
    folder = tmp_path_factory.mktemp("serve")
    run = train(folder / "runs", "--train.average_decay=0.9")
    for name, average in (("a", True), ("b", False)):
        export(run, folder / name, average=average)
    return folder / "a", folder / "b"


class Process:
    """The command; use it as a context."""

    def __init__(self, *words):
        command = [sys.executable, str(PROGRAM), "serve", *words, "--port", "0", "--threads", "1"]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        self.lines, self.port = [], 0
        for line in self.process.stdout:
            self.lines.append(line)
            if found := re.search(r"serving at http://127\.0\.0\.1:(\d+)", line):
                self.port = int(found[1])
                break
        self._reader = threading.Thread(target=lambda: self.lines.extend(self.process.stdout), daemon=True)
        self._reader.start()

    def __enter__(self):
        assert self.port, self.lines
        return self

    def __exit__(self, *_):
        self.process.kill()
        self.process.wait()
        self._reader.join(PATIENCE_S)

    def ask(self, path, content=None):
        body = None if content is None else json.dumps(content).encode()
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.port}{path}", body, {"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=PATIENCE_S) as answer:
            return json.load(answer)

    def end(self, number):
        self.process.send_signal(number)
        return self.ended()

    def ended(self):
        """The exit code; all that was said is in ``lines`` then."""
        code = self.process.wait(PATIENCE_S)
        self._reader.join(PATIENCE_S)
        return code

    def metric(self, name):
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/metrics", timeout=PATIENCE_S) as answer:
            return float(re.search(rf"^{name} (\S+)$", answer.read().decode(), re.MULTILINE)[1])


def wait_until(true):
    """Look again and again, for as long as a busy machine may need."""
    deadline_s = time.monotonic() + PATIENCE_S
    while not true():
        assert time.monotonic() < deadline_s
        time.sleep(0.02)


def refuses_connections(port):
    try:
        socket.create_connection(("127.0.0.1", port), PATIENCE_S).close()
    except ConnectionRefusedError:
        return True
    return False


def test_a_server_from_its_start_over_a_swap_under_load_to_its_end(exports, tmp_path):
    first, second = exports
    link = tmp_path / "current"
    link.symlink_to(first)
    row = open_predictor(first).preprocessing.example()
    answers, stop = [], threading.Event()
    with Process("--models", f"ctr={link},other={second}", "--reload_s", "0.2", "--access_log") as server:
        assert [model["name"] for model in server.ask("/v1/models")] == ["ctr", "other"]
        assert server.ask("/readyz") == {"status": "ready"}

        def load():
            while not stop.is_set():
                answers.append(server.ask("/v1/models/ctr/predict", {"rows": [row] * 3}))

        threads = [threading.Thread(target=load) for _ in range(3)]
        for thread in threads:
            thread.start()
        (tmp_path / "beside").symlink_to(second)
        os.replace(tmp_path / "beside", link)
        checksums = [open_export(path).checksum for path in exports]
        deadline = time.monotonic() + PATIENCE_S
        while not (answers and answers[-1]["export"] == checksums[1]) and time.monotonic() < deadline:
            time.sleep(0.05)
        stop.set()
        for thread in threads:
            thread.join(PATIENCE_S)
            assert not thread.is_alive()
        found = {}
        for answer in answers:
            found.setdefault(answer["export"], set()).add(tuple(answer["probabilities"]["label"]))
        assert set(found) == set(checksums)
        for path, checksum in zip(exports, checksums, strict=True):
            predictor = open_predictor(path)
            expected = predictor.probabilities(predictor.preprocessing.from_json([row] * 3))[:, 0].numpy()
            assert found[checksum] == {tuple(float(str(number)) for number in expected)}

        slow = socket.create_connection(("127.0.0.1", server.port))
        body = json.dumps({"rows": [row]}).encode()
        head = b"POST /v1/models/ctr/predict HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\n"
        slow.sendall(head + b"Content-Length: %d\r\n\r\n" % len(body) + body[:10])
        wait_until(lambda: server.metric("dlrm_requests_in_flight") == 1)
        server.process.send_signal(signal.SIGTERM)
        wait_until(lambda: refuses_connections(server.port))
        slow.sendall(body[10:])  # what was begun is answered
        assert slow.recv(65536).startswith(b"HTTP/1.1 200 ")
        assert server.ended() == 0
        said = "".join(server.lines)
        assert re.search(r"ctr is now step 8, .*before: step 8", said)
        assert "ended: every request was answered" in said
        logged = [json.loads(line) for line in server.lines if line.startswith("{")]
        predictions = [one for one in logged if one["path"].endswith("/predict")]
        assert len(predictions) == len(answers) + 1
        assert all(one["status"] == 200 for one in predictions)


@pytest.mark.slow
def test_sighup_looks_for_an_export_and_a_second_signal_ends_at_once(exports, tmp_path):
    link = tmp_path / "current"
    link.symlink_to(exports[0])
    with Process(str(link), "--reload_s", "0") as server:
        link.unlink()
        server.process.send_signal(signal.SIGHUP)
        deadline = time.monotonic() + PATIENCE_S
        while not (problem := server.ask("/v1/models/default")["problem"]) and time.monotonic() < deadline:
            time.sleep(0.05)
        assert str(link) in problem
        with socket.create_connection(("127.0.0.1", server.port)) as begun:
            begun.sendall(b"POST /v1/models/default/predict HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\n")
            begun.sendall(b"Content-Length: 10\r\n\r\n")
            wait_until(lambda: server.metric("dlrm_requests_in_flight") == 1)
            server.process.send_signal(signal.SIGINT)
            wait_until(lambda: refuses_connections(server.port))
            assert server.process.poll() is None
            assert server.end(signal.SIGINT) == 130


@pytest.mark.slow
def test_the_trainer_is_not_loaded(exports):
    program = f"""
import runpy, signal, sys, threading, time
from dlrm.inference.serve import server
def end(self, counter, *, tick=server.Server.on_tick):
    self.end(signal.SIGTERM) if counter == 3 else None
    return tick(self, counter)
server.Server.on_tick = end
sys.argv = ["dlrm_main.py", "serve", {str(exports[0])!r}, "--port", "0"]
from dlrm.command import failure
failure.leave = lambda error: None
runpy.run_path({str(PROGRAM)!r}, run_name="__main__")
found = sorted(name for name in sys.modules if name.startswith({TRAINER!r}))
print("LOADED", found, flush=True)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=PATIENCE_S * 2)
    assert "ended: every request was answered" in done.stdout, done.stderr
    assert "LOADED []" in done.stdout


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["{folder}/nothing"], "there is no such folder"),
        (["{folder}"], "is no export"),
        (["--models", "a={folder}/a,a={folder}/b"], "names a twice"),
        (["--models", "a/b={folder}/a"], "has the name"),
        ([], "models: is required"),
        (["{folder}/a", "--prot", "1"], "did you mean port"),
        (["{folder}/a", "--port", "{port}"], "cannot listen on 127.0.0.1:{port}"),
        (["{folder}/a", "--host", "256.0.0.1"], "cannot listen on 256.0.0.1"),
        (["{folder}/a", "--max_request_rows", "99999"], "max_queue_rows"),
        (["{folder}/a", "--max_held_bytes", "1000"], "a body could never be held"),
        (["{folder}/a", "--compiled"], "holds no compiled code"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(exports, words, said):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        known = {"folder": exports[0].parent, "port": port}
        words = [word.format(**known) for word in words]
        (outcome,) = run_command(["serve", *words])
    assert outcome.exit_code == 2, outcome
    assert said.format(**known) in outcome.stderr
    assert len(outcome.stderr.splitlines()) == 1, outcome.stderr
