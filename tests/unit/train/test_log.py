import logging
import sys

import pytest

from dlrm.train import log


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
    log._leave_terminal()
    assert not logger.handlers
    assert logger.propagate


def test_handlers_that_write_elsewhere_stay(tmp_path):
    logger = logging.getLogger("another.library")
    with (tmp_path / "out").open("w") as out:
        handlers = [logging.NullHandler(), logging.StreamHandler(out), logging.FileHandler(tmp_path / "log")]
        for handler in handlers:
            logger.addHandler(handler)
        log._leave_terminal()
        assert logger.handlers == handlers
        logger.handlers.clear()
        handlers[2].close()
