"""What the launchers of a job tell each other about why ranks have ended.

The cause of a failure is known on one host, while ranks of all others fail because of it. So each launcher writes what
it knows into the store where the hosts meet, under the round of the rendezvous in which its ranks were started:

* ``dlrm/cause/N``: the failures on the N-th host, and whether they are the end of the job or ranks are started again;
* ``dlrm/causes``: counts what was written, so that nothing but a number is read as long as all is well;
* ``dlrm/told``: counts the hosts that know that the job ends, so that the one that ended it need not leave before;
* ``dlrm/end``, of no round: how the job ended, for those that wait to get in.

Whatever is read and written is signed (launch/signed_store.py). A host that cannot be told any more is not waited for
longer than launch/times.py says.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, replace
from typing import Any

from failures import Failure, cause
from telling import LaunchError
from times import CAUSE_PATIENCE_S, LOOK_EVERY_S, TOLD_PATIENCE_S
from torch.distributed import Store

_END = "dlrm/end"
_POLL_S = 0.1
_MOST_FAILURES = 16  # of a host are told
_LONGEST_LINE = 2000


class JobEnded(LaunchError):  # noqa: N818  # no error of this host's
    """Another launcher has ended the job.

    Attributes:
        failures: for which it has; not empty.
    """

    def __init__(self, failures: Sequence[Failure]) -> None:
        first = min(failures, key=Failure.order)
        super().__init__(cause(failures).strip(), exit_code=first.code)
        self.failures = list(failures)


class OtherHosts:
    """What the other launchers say, as seen from one of them.

    Args:
        host: the name of this one.
        job: the store of the whole job.

    Attributes:
        host: as given.
        failures: of ranks of other hosts, since ranks were last started.
        job_ended: whether a launcher, this one or another, has said that the job has ended.
    """

    def __init__(self, host: str, job: Store) -> None:
        self.host = host
        self._job = job
        self.begin(job, rank=0, hosts=1)

    def begin(self, store: Store, *, rank: int, hosts: int) -> None:
        """Ranks are started by ``hosts`` launchers, of which this is the ``rank``-th, that meet in ``store``."""
        self._store, self._rank, self._hosts = store, rank, hosts
        self._read = 0
        self._looked_s = time.monotonic()
        self._is_counted = False
        self._said: tuple[list[dict[str, Any]], bool] | None = None
        self.failures: list[Failure] = []
        self.job_ended = False

    def say(self, failures: Sequence[Failure], *, final: bool) -> None:
        """Tell the others how ranks of this host have ended, and whether that is the end of the job."""
        first = sorted(failures, key=Failure.order)[:_MOST_FAILURES]
        told = [asdict(replace(failure, line=failure.line[:_LONGEST_LINE], details="")) for failure in first]
        if self._hosts == 1 or self._said == (told, final):
            return
        self._said = (told, final)
        self.job_ended = self.job_ended or final

        def write() -> None:
            if final:
                self._job.set(_END, json.dumps([self.host, told]))
            self._store.set(f"dlrm/cause/{self._rank}", json.dumps([self.host, told, final]))
            self._store.add("dlrm/causes", 1)
            if final:
                self._count()

        _within(CAUSE_PATIENCE_S, write)

    def look(self) -> None:
        """Read what is new, at most every LOOK_EVERY_S.

        Raises:
            LaunchError: the store does not answer.
        """
        if self._hosts > 1 and time.monotonic() >= self._looked_s + LOOK_EVERY_S:
            self._look()

    def wait_for_cause(self) -> None:
        """Wait until there is a cause among the failures of the others, for CAUSE_PATIENCE_S at most."""

        def read() -> None:
            until_s = time.monotonic() + CAUSE_PATIENCE_S
            self._look()
            while not any(failure.is_cause for failure in self.failures) and time.monotonic() < until_s:
                time.sleep(_POLL_S)
                self._look()

        if self._hosts > 1:
            _within(CAUSE_PATIENCE_S + _POLL_S, read)

    def end_with_job(self) -> None:
        """Raise what ends this launcher if another one has ended the job.

        Raises:
            JobEnded: one has.
        """
        if self.job_ended and self.failures:
            self.wait_for_cause()
            raise JobEnded(self.failures)

    def wait_until_told(self) -> None:
        """Wait until all others know how the job ended, for TOLD_PATIENCE_S at most; only then may this process end.

        Where the store is another launcher's it has to be there, and where a scheduler kills all hosts of a job when one
        ends they have to know why.
        """

        def read() -> None:
            until_s = time.monotonic() + TOLD_PATIENCE_S
            while self._store.add("dlrm/told", 0) < self._hosts and time.monotonic() < until_s:
                time.sleep(_POLL_S)
            self._look()

        if self._is_counted:
            _within(TOLD_PATIENCE_S + _POLL_S, read)

    def end_of_job(self) -> list[Failure]:
        """How the job has ended, if a launcher has said so; empty if not, or if the store does not answer."""
        try:
            if not self._job.check([_END]):
                return []
            host, told = json.loads(self._job.get(_END))
        except LaunchError:
            return []
        return _of_host(host, told)

    def _look(self) -> None:
        self._looked_s = time.monotonic()
        written = self._store.add("dlrm/causes", 0)
        if written == self._read:
            return
        failures: list[Failure] = []
        for rank in range(self._hosts):
            key = f"dlrm/cause/{rank}"
            if rank != self._rank and self._store.check([key]):
                host, told, final = json.loads(self._store.get(key))
                failures += _of_host(host, told)
                self.job_ended = self.job_ended or final
        self.failures, self._read = failures, written
        if self.job_ended:
            self._count()

    def _count(self) -> None:
        if not self._is_counted:
            self._is_counted = True
            self._store.add("dlrm/told", 1)


def _within(seconds: float, action: Callable[[], None]) -> None:
    """Do something with the store and return when it is done, or after so many seconds, if the first host does not answer.

    That it is gone is no news here: a launcher that cannot do without it says so where it waits for it.
    """

    def act() -> None:
        with suppress(LaunchError):
            action()

    thread = threading.Thread(target=act, name="causes", daemon=True)
    thread.start()
    thread.join(seconds)


def _of_host(host: str, told: list[dict[str, Any]]) -> list[Failure]:
    called = [tuple((group, number, name) for group, number, name in failure["called"]) for failure in told]
    return [replace(Failure(**each), host=host, called=own) for each, own in zip(told, called, strict=True)]
