import errno
import faulthandler
import logging
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from dlrm.run import log


@pytest.fixture
def logging_as_in_a_run():
    """The root logger, with what a run puts there taken away again."""
    root, hook = logging.getLogger(), threading.excepthook
    handlers, level = list(root.handlers), root.level
    log.capture_logs()
    yield root
    for handler in [handler for handler in root.handlers if handler not in handlers]:
        root.removeHandler(handler)
    for handler in handlers:
        if handler not in root.handlers:
            root.addHandler(handler)
    root.setLevel(level)
    logging.captureWarnings(False)
    threading.excepthook = hook
    faulthandler.enable(sys.__stderr__)


def test_the_log_has_what_came_before_its_folder_was_known(tmp_path, logging_as_in_a_run):
    logging.getLogger("library").info("early")
    log.open_log(tmp_path, 3, pytest.fail)
    logging.getLogger("library").info("late")
    lines = (tmp_path / "log" / "rank3.log").read_text().splitlines()
    assert [line.rsplit(" ", 1)[1] for line in lines] == ["early", "late"]


def test_a_log_that_cannot_be_opened_is_told_of_once(tmp_path, logging_as_in_a_run, capfd):
    (tmp_path / "log").write_text("a file in the way")
    told = []
    log.open_log(tmp_path, 0, told.append)
    for number in range(3):
        logging.getLogger("library").info("record %d", number)
    assert len(told) == 1
    assert (
        told[0].endswith("rank0.log: Not a directory; the log is not complete, the run goes on") or "exists" in told[0]
    )
    assert capfd.readouterr() == ("", "")


def test_a_disk_that_fills_while_logging_is_told_of_once(tmp_path, logging_as_in_a_run, capfd):
    told = []
    log.open_log(tmp_path, 0, told.append)
    logging.getLogger("library").info("fits")
    (handler,) = (handler for handler in logging.root.handlers if isinstance(handler, log._LogFile))

    class Full:
        def write(self, text):
            raise OSError(errno.ENOSPC, "No space left on device")

        def flush(self):
            raise OSError(errno.ENOSPC, "No space left on device")

        def close(self):
            pass

    handler.stream.close()
    handler.stream = Full()
    for number in range(3):
        logging.getLogger("library").info("record %d", number)
    assert [line.partition("rank0.log: ")[2] for line in told] == [
        "No space left on device; the log is not complete, the run goes on"
    ]
    assert capfd.readouterr() == ("", "")


def test_a_thread_that_fails_is_in_the_log_and_not_on_the_terminal(tmp_path, logging_as_in_a_run, capfd):
    log.open_log(tmp_path, 0, pytest.fail)

    def fail():
        raise ValueError("of a library's own thread")

    thread = threading.Thread(target=fail)
    thread.start()
    thread.join()
    assert "ValueError: of a library's own thread" in (tmp_path / "log" / "rank0.log").read_text()
    assert capfd.readouterr() == ("", "")


class FollowsStderr(logging.Handler):
    """As torch's handler is from 2.14 on: no StreamHandler."""

    @property
    def stream(self):
        return sys.__stderr__


@pytest.mark.parametrize("handler", [FollowsStderr(), logging.StreamHandler(sys.__stderr__)])
def test_handlers_of_libraries_that_write_to_the_terminal_are_taken_off(handler):
    logger = logging.getLogger("a.library")
    logger.propagate = False
    logger.addHandler(handler)
    log.leave_terminal()
    assert not logger.handlers
    assert logger.propagate


def test_handlers_that_write_elsewhere_stay(tmp_path):
    logger = logging.getLogger("another.library")
    with (tmp_path / "out").open("w") as out:
        handlers = [logging.NullHandler(), logging.StreamHandler(out), logging.FileHandler(tmp_path / "log")]
        for handler in handlers:
            logger.addHandler(handler)
        log.leave_terminal()
        assert logger.handlers == handlers
        logger.handlers.clear()
        handlers[2].close()


def test_a_crash_leaves_its_stack_in_the_log(tmp_path):
    script = "import ctypes, sys; from pathlib import Path; from dlrm.run import log; log.capture_logs()\n"
    script += "log.open_log(Path(sys.argv[1]), 3, print)\ndef here(): ctypes.string_at(0)\nhere()"
    words = [sys.executable, "-c", script, str(tmp_path)]
    process = subprocess.run(
        words, cwd=Path(__file__).resolve().parents[3], capture_output=True, text=True, check=False
    )
    assert (process.returncode, process.stdout, process.stderr) == (-signal.SIGSEGV, "", "")
    text = (tmp_path / "log/rank3.log").read_text()
    assert text.startswith("Fatal Python error: Segmentation fault")
    assert " in here" in text
