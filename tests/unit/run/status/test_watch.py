"""The command as a person types it."""

import json
import os
import pty
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from dlrm.command.arguments import parse
from tests.unit.run.status.folders import beat, end, start

ROOT = Path(__file__).resolve().parents[4]
HANG_S = 60
STATUS = (sys.executable, "dlrm_main.py", "status")


@pytest.fixture
def running(tmp_path):
    """A run that began now and is heard for as long as a test may take."""
    now = time.time()
    start(tmp_path, now)
    for rank in (0, 1):
        beat(tmp_path, rank, start_s=now, every_s=1000.0)
        os.utime(tmp_path / f"heartbeat/rank{rank}.json", (now, now))
    return tmp_path


@pytest.mark.parametrize("words", [["--json", "r"], ["r", "--json"], ["--json=true", "--path", "r"]])
def test_json_is_a_switch_wherever_it_stands(words):
    config = parse(["status", *words]).config()
    assert (config.path, config.json, config.watch) == ("r", True, False)


def test_it_starts_without_torch_and_says_where_the_run_stands(running):
    script = "import sys; from dlrm.command.arguments import parse; from dlrm.command.run import run\n"
    script += "run(parse(sys.argv[1:]).config()); sys.exit('torch' in sys.modules)"
    words = [sys.executable, "-c", script, "status", str(running)]
    process = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=HANG_S, check=True)
    assert process.stdout.startswith(f"{running}: running: training\n")


def test_what_is_no_run_ends_with_one_line_and_exit_code_2(tmp_path):
    process = subprocess.run([*STATUS, "none"], cwd=ROOT, capture_output=True, text=True, timeout=HANG_S, check=False)
    assert (process.returncode, process.stdout) == (2, "")
    assert process.stderr.startswith("none: is not there; a job makes its folder when its ranks have started ")


def test_a_folder_that_is_not_there_yet_is_waited_for(running, tmp_path):
    link = tmp_path / "later"
    words = [*STATUS, str(link), "--watch", "--json", "--every_s", "0.2"]
    with subprocess.Popen(words, cwd=ROOT, stdout=-1, stderr=-1) as process:
        assert process.stderr.readline().endswith(b"is not there yet; waiting for it\n")
        link.symlink_to(running)
        assert json.loads(process.stdout.readline())["state"] == "running"
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=HANG_S)
    assert process.returncode == 0


def test_ctrl_c_leaves_the_watch_without_a_word(running):
    with subprocess.Popen([*STATUS, str(running), "--watch", "--json"], cwd=ROOT, stdout=-1, stderr=-1) as process:
        assert json.loads(process.stdout.readline())["state"] == "running"
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=HANG_S)
    assert (process.returncode, err) == (0, b"")
    assert all(json.loads(line)["state"] == "running" for line in out.splitlines())


def test_a_terminal_is_drawn_anew_until_the_run_has_ended(running):
    terminal, of_process = pty.openpty()
    words = [*STATUS, str(running), "--watch", "--every_s", "0.2"]
    wide = {**os.environ, "COLUMNS": "300"}  # the folder of a test has a long name
    with subprocess.Popen(words, cwd=ROOT, stdout=of_process, env=wide) as process:
        os.close(of_process)
        drawn = b""
        while drawn.count(b"running: training") < 2:
            drawn += os.read(terminal, 65536)
        began_s = json.loads((running / "processes.jsonl").read_text())["time"]
        end(running, 0, "finished", "all epochs trained", start_s=began_s)
        while b"finished: all epochs trained" not in drawn:
            drawn += os.read(terminal, 65536)
        assert process.wait(HANG_S) == 0
    os.close(terminal)
    assert drawn.count(b"\x1b[H") >= 3
