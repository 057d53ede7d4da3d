import json
import logging
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch.distributed as dist

from dlrm.checkpoint.storage import UnreachableError
from dlrm.command.failure import is_peer_failure, judge, summary
from dlrm.errors import ConfigError, ConfigProblem, DataError, SetupError

ROOT = Path(__file__).resolve().parents[3]
GLOO = "[/pytorch/third_party/gloo/gloo/transport/tcp/pair.cc:553] Connection closed by peer [127.0.0.1]:38312."


@pytest.mark.parametrize("buffered", [True, False])
@pytest.mark.parametrize("words", [["doctor"], ["inspect", "--path", "x", "--print-config"]])
def test_output_that_cannot_be_written_is_one_line(words, buffered):
    environment = {**os.environ, "PYTHONUNBUFFERED": "" if buffered else "1"}
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "dlrm_main.py", *words],
            cwd=ROOT,
            env=environment,
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
        )
    line = "standard output cannot be written to (No space left on device); send it somewhere else\n"
    assert (done.returncode, done.stderr) == (2, line)


def test_a_reader_who_has_read_enough_is_no_failure():
    command = f"{sys.executable} dlrm_main.py inspect --path x --print-config | true; exit ${{PIPESTATUS[0]}}"
    environment = {**os.environ, "PYTHONUNBUFFERED": ""}
    done = subprocess.run(["bash", "-c", command], cwd=ROOT, env=environment, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("end", ["raise BrokenPipeError(32, 'Broken pipe')", "rich.console.Console().on_broken_pipe()"])
def test_a_command_that_prints_ends_quietly_when_its_reader_has_enough(end):
    script = (
        "from dlrm.command.failure import leave\nimport rich.console\ntry:\n    try: print('x' * 100_000, flush=True)\n"
    )
    script += f"    except BrokenPipeError: {end}\nexcept BaseException as error: leave(error)"
    command = f'{sys.executable} -c "{script}" | true; exit ${{PIPESTATUS[0]}}'
    done = subprocess.run(["bash", "-c", command], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_full_disk_elsewhere_is_not_taken_for_that_of_the_output():
    line = judge(raised(OSError(28, "No space left on device", "/a/file")), rank=0, world_size=1).line
    assert line == "/a/file: No space left on device; free some space or name another place"
    line = judge(raised(OSError(28, "No space left on device")), rank=0, world_size=1).line
    assert line == "No space left on device; free some space or name another place"


def raised(error, cause=None):
    try:
        raise error from cause
    except BaseException as caught:
        return caught


def left(error_expression, **environment):
    """A process that leaves because of an error."""
    script = (
        "from dlrm.command.failure import *\nfrom dlrm.errors import *\n"
        f"import logging\ntry:\n    {error_expression}\nexcept BaseException as error:\n    leave(error)\n"
    )
    passed = {name: value for name, value in os.environ.items() if name not in ("RANK", "WORLD_SIZE", "DLRM_LAUNCHER")}
    return subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, env={**passed, **environment}, capture_output=True, text=True
    )


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError(GLOO),
        RuntimeError("Application timeout caused pair closure"),
        dist.DistBackendError("NCCL error: remote process exited or there was a network error"),
        dist.DistNetworkError("The client socket has failed to connect"),
        dist.DistStoreError("wait timeout after 600000ms"),
        raised(ValueError("while exchanging"), RuntimeError(GLOO)),
    ],
)
def test_what_other_ranks_leave_behind_is_a_consequence(error):
    assert is_peer_failure(error)
    assert judge(error, rank=0, world_size=2).kind in ("peer", "timeout")


def test_who_waited_in_vain_says_how_long_one_waits():
    error = RuntimeError(
        "[gloo/transport/tcp/unbound_buffer.cc:81] Timed out waiting 1000ms for recv operation to complete"
    )
    verdict = judge(error, rank=0, world_size=2)
    assert verdict.kind == "timeout"
    assert verdict.line.startswith(
        "rank 0 got no answer from another rank within distributed.timeout_s: RuntimeError: "
    )


@pytest.mark.parametrize("error", [RuntimeError("shape mismatch"), ValueError("Broken pipe"), KeyError("gloo")])
def test_a_rank_s_own_error_is_a_bug_with_its_traceback_and_its_rank_last(error):
    verdict = judge(raised(error), rank=1, world_size=2)
    assert (verdict.kind, verdict.exit_code) == ("bug", 1)
    assert verdict.line == f"rank 1 failed: {summary(error)}"
    assert verdict.details.startswith("Traceback")


def test_alone_no_peer_can_be_the_cause():
    assert judge(RuntimeError(GLOO), rank=0, world_size=1).kind == "bug"


def test_a_user_error_has_one_line_and_exit_code_2():
    error = DataError("a.tsv", "is empty")
    assert judge(error, rank=0, world_size=2).line == "a.tsv: is empty"
    assert judge(error, rank=3, world_size=4).line == "rank 3: a.tsv: is empty"
    verdict = judge(raised(error), rank=0, world_size=1)
    assert (verdict.kind, verdict.details, verdict.exit_code) == ("user", "", 2)


def test_a_missing_package_is_one_line_with_the_hint_but_a_missing_part_of_this_one_is_a_bug():
    verdict = judge(ModuleNotFoundError("No module named 'torchrec.x'", name="torchrec.x"), rank=0, world_size=1)
    assert (verdict.kind, verdict.exit_code) == ("user", 2)
    assert "torchrec.x is not installed" in verdict.line
    assert judge(ModuleNotFoundError("No module named 'dlrm.x'", name="dlrm.x"), rank=0, world_size=1).kind == "bug"


def test_not_finding_the_other_ranks_waits_for_the_rank_that_knows_why():
    error = raised(SetupError("cannot join"), dist.DistNetworkError("timed out"))
    verdict = judge(error, rank=0, world_size=2)
    assert (verdict.kind, verdict.exit_code) == ("peer", 2)


def test_several_mistakes_of_a_configuration_are_all_said():
    error = ConfigError([ConfigProblem("a.b", "x.yaml:1", "is odd"), ConfigProblem("a.c", "x.yaml:2", "is even")])
    assert judge(error, rank=0, world_size=1).line.splitlines()[1:] == [
        "  x.yaml:1: a.b: is odd",
        "  x.yaml:2: a.c: is even",
    ]


def test_a_summary_is_one_short_line():
    assert summary(RuntimeError("first\nsecond")) == "RuntimeError: first"
    assert summary(KeyboardInterrupt()) == "KeyboardInterrupt"
    assert len(summary(RuntimeError("x" * 10_000))) == 500


def test_leaving_after_a_user_error_prints_one_line_and_exits_with_2():
    process = left("raise DataError('a.tsv', 'is empty')")
    assert (process.returncode, process.stderr) == (2, "a.tsv: is empty\n")


def test_leaving_after_a_bug_prints_its_traceback_and_exits_with_1():
    process = left("1 / 0")
    assert process.returncode == 1
    assert process.stderr.splitlines()[-1] == "ZeroDivisionError: division by zero"


def test_leaving_after_ctrl_c_prints_one_line_and_exits_with_130():
    process = left("raise KeyboardInterrupt")
    assert (process.returncode, process.stderr) == (130, "interrupted\n")


@pytest.mark.parametrize(("raise_exit", "code"), [("raise SystemExit", 0), ("raise SystemExit(3)", 3)])
def test_leaving_by_sys_exit_keeps_its_code(raise_exit, code):
    process = left(raise_exit)
    assert (process.returncode, process.stderr) == (code, "")


def test_under_the_launcher_a_rank_hands_its_error_over_and_is_silent(tmp_path):
    file = tmp_path / "error.json"
    environment = {"RANK": "0", "WORLD_SIZE": "2", "DLRM_LAUNCHER": "1", "TORCHELASTIC_ERROR_FILE": str(file)}
    process = left("raise DataError('a.tsv', 'is empty')", **environment)
    assert (process.returncode, process.stderr) == (2, "")
    content = json.loads(file.read_text())
    assert content["message"]["message"] == content["dlrm"]["line"] == "a.tsv: is empty"
    assert content["message"]["errorCode"] == 2


def test_a_rank_that_waited_for_another_tells_the_launcher_before_it_waits_to_be_ended(tmp_path):
    file = tmp_path / "error.json"
    environment = {"RANK": "0", "WORLD_SIZE": "2", "DLRM_LAUNCHER": "1", "TORCHELASTIC_ERROR_FILE": str(file)}
    script = "from dlrm.command.failure import leave; leave(RuntimeError('Timed out waiting 1000ms for recv'))"
    with subprocess.Popen([sys.executable, "-c", script], cwd=ROOT, env={**os.environ, **environment}) as process:
        while not file.exists() and process.poll() is None:
            time.sleep(0.01)
        process.terminate()
    assert process.returncode == -signal.SIGTERM
    assert json.loads(file.read_text())["dlrm"]["kind"] == "timeout"


def test_a_rank_that_cannot_hand_its_error_over_says_it(tmp_path):
    environment = {"DLRM_LAUNCHER": "1", "TORCHELASTIC_ERROR_FILE": str(tmp_path / "missing" / "error.json")}
    process = left("raise DataError('a.tsv', 'is empty')", **environment)
    assert process.stderr == "a.tsv: is empty\n"


def test_the_log_file_keeps_the_error_with_its_traceback(tmp_path):
    log = tmp_path / "rank0.log"
    left(f"logging.getLogger('dlrm').addHandler(logging.FileHandler({str(log)!r})); 1 / 0")
    text = log.read_text()
    assert text.startswith("bug failure: ZeroDivisionError")
    assert "Traceback" in text
    assert not logging.getLogger("dlrm").handlers


def test_what_an_error_quotes_does_nothing_to_a_terminal():
    for error in (ValueError("\x1b]0;title\x07\nnext"), DataError("a", "b", column="\x1b[2J\r"), SetupError("\x9b2J")):
        for world_size in (1, 2):
            verdict = judge(error, rank=0, world_size=world_size)
            said = (verdict.details + verdict.line).split("\n")
            assert all(line.isprintable() for line in said)
            assert any("\\x" in line for line in said)


def test_storage_that_is_away_is_one_line_and_no_mistake_of_the_user():
    """A scheduler starts such a job again; after exit code 2 it would not."""
    verdict = judge(UnreachableError("s3://b/a", "does not answer"), rank=0, world_size=1)
    assert (verdict.kind, verdict.exit_code, verdict.details) == ("user", 1, "")
