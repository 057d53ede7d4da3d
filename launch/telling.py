"""What the launcher says while it waits for other hosts, and when it cannot go on without them."""

from __future__ import annotations

import math
import sys
import time

from launch_output import write
from torch.distributed.elastic.rendezvous import RendezvousError

FIRST_S = 5.0  # the hosts of a job seldom start within less of each other
EVERY_S = 30.0


# What to do where a job has lost a host that it cannot do without.
WHAT_NEXT = "the job ends; start it again with --resume auto, as a scheduler that requeues it does"


class LaunchError(RendezvousError):
    """The launch failed; the text is the whole line to print. torch knows it as an error of the rendezvous.

    Attributes:
        exit_code: 2 if the user can mend it.
    """

    def __init__(self, line: str, *, exit_code: int = 1) -> None:
        super().__init__(line)
        self.exit_code = exit_code


class Waiting:
    """A wait that is told: after five seconds for the first time, then every half minute.

    Args:
        limit_s: how long it can take.
        option: what changes that, if anything does.
    """

    def __init__(self, limit_s: float, option: str = "") -> None:
        self._limit_s = limit_s
        self._option = option
        self._began_s = time.monotonic()
        self._next_s = FIRST_S

    @property
    def over(self) -> bool:
        """Whether the time is up."""
        return self.waited_s > self._limit_s

    @property
    def waited_s(self) -> float:
        """Seconds since the wait began."""
        return time.monotonic() - self._began_s

    def say(self, what: str, *, left_s: float | None = None, option: str = "") -> None:
        """Say what is waited for, if it is time to.

        Args:
            what: is waited for.
            left_s: seconds, where it is another limit that counts; infinite if there is none.
            option: what changes that limit.
        """
        if self.waited_s < self._next_s:
            return
        self._next_s = self.waited_s + EVERY_S
        if left_s is None:
            left_s, option = self._limit_s - self.waited_s, self._option
        if left_s < math.inf:
            what += f"; waiting {max(0.0, left_s):.0f} s more at most" + (f" ({option})" if option else "")
        say(what)


def say(line: str) -> None:
    """Print a line at once."""
    write(sys.stderr, f"{line}\n")
