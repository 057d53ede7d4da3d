"""Lines of a log that somebody reads, or nobody."""

import fcntl
import json
import os
from types import SimpleNamespace

import pytest

from dlrm.inference.serve import log


@pytest.fixture
def pipe(monkeypatch):
    """The end to read of a small pipe that is standard output."""
    reading, writing = os.pipe()
    os.set_blocking(reading, False)
    fcntl.fcntl(writing, fcntl.F_SETPIPE_SZ, 4096)
    with os.fdopen(reading, "rb", buffering=0) as read, os.fdopen(writing, "w") as written:
        monkeypatch.setattr(log, "sys", SimpleNamespace(stdout=written))  # pytest puts its own into the real one
        monkeypatch.setattr(log, "_dropped", 0)
        yield read


def test_lines_for_which_there_is_no_room_are_dropped_and_counted(pipe):
    for number in range(200):
        log.say_record(number=number, text="x" * 100)
    said = [json.loads(line)["number"] for line in pipe.read(1 << 16).splitlines()]
    assert said == list(range(len(said)))
    assert 0 < len(said) < 200
    log.say("again")
    dropped, again = pipe.read(1 << 16).decode().splitlines()
    assert f" {200 - len(said)} lines before this one were dropped" in dropped
    assert again.endswith(" again")


def test_a_line_that_no_pipe_takes_at_once_is_cut(pipe):
    log.say("ä" * 10_000)
    content = pipe.read(1 << 16)
    assert len(content) <= 4096
    assert content.endswith(b"...\n")


def test_a_pipe_without_a_reader_stops_nobody(pipe):
    pipe.close()
    log.say("to nobody")


def test_standard_output_without_a_descriptor_is_written_to(capsys):
    log.say("a line\x1b[2J")
    assert capsys.readouterr().out.endswith(r" a line\x1b[2J" + "\n")
