"""Progress is said now and then, with the time that is left."""

import io
import re

import pytest
import rich.console

from dlrm import progress
from dlrm.progress import Bars, Lines, Progress, duration, shown_progress


@pytest.fixture
def clock(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    return now


def test_a_line_says_the_share_that_is_done_and_the_time_that_is_left(clock):
    out = io.StringIO()
    lines = Lines(rich.console.Console(file=out, width=80))
    lines.step("parse", total=100, done=20)  # 80 to go
    for seconds in range(1, 21):
        clock[0] = 100.0 + seconds
        lines.advance(2)  # 40 in 20 seconds: as long again for the rest
    lines.close()
    assert out.getvalue().splitlines() == ["parse: 40%, 0:30 left", "parse: 60%, 0:20 left", "parse: 0:20"]


def test_units_that_have_a_name_are_told_by_the_second(clock):
    out = io.StringIO()
    lines = Lines(rich.console.Console(file=out, width=80))
    lines.step("score", total=100_000, done=20_000, unit="rows")
    clock[0] += 10
    lines.advance(40_000)
    lines.close()
    assert out.getvalue().splitlines() == ["score: 60%, 4,000 rows/s, 0:10 left", "score: 0:10"]


def test_a_bar_tells_units_by_the_second():
    out = io.StringIO()
    bars = Bars(rich.console.Console(file=out, width=100, force_terminal=True))
    bars.step("score", 30_000, done=10_000, unit="rows")
    bars._bar.tasks[0].start_time -= 10
    bars.advance(20_000)
    bars.stop()
    assert re.search(r"(2,000|1,99\d) rows/s", out.getvalue())


def test_bars_show_every_step():
    out = io.StringIO()
    bars = Bars(rich.console.Console(file=out, width=100, force_terminal=True))
    bars.step("parse", 10)
    bars.advance(10)
    bars.step("write", 4, done=2)
    bars.say("half way")
    bars.close()
    bars.stop()
    assert all(text in out.getvalue() for text in ("parse", "write", "half way", "100%"))


@pytest.mark.parametrize("terminal", [False, True])
def test_of_several_ranks_every_step_says_whose_share_it_shows(monkeypatch, capsys, terminal):
    place = {
        "RANK": 0,
        "WORLD_SIZE": 4,
        "LOCAL_RANK": 0,
        "LOCAL_WORLD_SIZE": 2,
        "MASTER_ADDR": "here",
        "MASTER_PORT": 1,
    }
    for name, value in place.items():
        monkeypatch.setenv(name, str(value))
    monkeypatch.setattr("rich.console.Console.is_terminal", terminal)
    with shown_progress(True) as shown:
        shown.step("parse", 10)
        shown.step("write", 10)
    out = capsys.readouterr().out
    assert "parse (rank 0 of 4)" in out
    assert "write (rank 0 of 4)" in out


def test_one_process_does_not_speak_of_ranks(capsys):
    with shown_progress(True) as shown:
        shown.step("parse", 10)
    assert capsys.readouterr().out == "parse: 0:00\n"


def test_what_is_not_to_be_seen_is_silent(capsys):
    with shown_progress(False) as hidden:
        assert type(hidden) is Progress
        hidden.step("parse", 10)
        hidden.advance(5)
        hidden.say("nothing")
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(("seconds", "text"), [(0, "0:00"), (61.4, "1:01"), (3600, "1:00:00"), (90061, "25:01:01")])
def test_durations_read_as_clocks_do(seconds, text):
    assert duration(seconds) == text
