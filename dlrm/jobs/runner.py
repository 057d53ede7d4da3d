"""Running jobs, one after the other or several at a time, and keeping what became of each."""

from __future__ import annotations

import signal
import time
from contextlib import suppress
from typing import Generic, Protocol, TypeVar

from dlrm.config.jobs import JobsConfig
from dlrm.errors import StoppedBySignal
from dlrm.jobs.processes import Job, Starter, await_gone
from dlrm.jobs.spec import JobSpec, Record
from dlrm.signals import SignalWatch

Spec = TypeVar("Spec", bound=JobSpec)


class Stopped(StoppedBySignal):
    """A signal has ended a command; its jobs are stopped, and its table is written.

    Attributes:
        command: its name.
    """

    def __init__(self, number: int, step: int = 0, command: str = "scale") -> None:
        super().__init__(number, step)
        self.command = command

    def __str__(self) -> str:
        return f"stopped by {signal.Signals(self.number).name}; started again, {self.command} goes on"


class Agenda(Protocol[Spec]):
    """What is to be run, which may follow from what was found before; it is told what becomes of each job."""

    @property
    def is_over(self) -> bool:
        """Whether nothing is left once the jobs under way have ended."""

    def take(self) -> Spec | None:
        """The next one to start; None if there is none, or none before another has ended."""

    def started(self, spec: Spec, *, found_again: bool) -> None:
        """A job was started, or one of an earlier start is waited for."""

    def done(self, spec: Spec, duration_s: float) -> None:
        """It has a result, which is there to be read."""

    def failed(self, spec: Spec, reason: str, *, final: bool) -> None:
        """It has none; if final, another try would fail as well."""

    def not_stopped(self, spec: Spec) -> None:
        """It was to be stopped, and may still run."""

    def keep(self) -> None:
        """Write what is known by now."""


class Runner(Generic[Spec]):
    """Runs jobs.

    Args:
        config: of the command; command: its name.
        at_once: so many jobs run at a time.
        starter: starts them.
    """

    def __init__(self, config: JobsConfig, starter: Starter, *, at_once: int, command: str = "scale") -> None:
        self._config, self._starter, self._at_once, self._command = config, starter, at_once, command
        self._jobs: list[tuple[Spec, Job]] = []

    def run(self, agenda: Agenda[Spec]) -> None:
        """Run all of it.

        Raises:
            KeyboardInterrupt: after Ctrl-C, when the jobs are stopped and what is known is kept.
            Stopped: the same after another signal.
        """
        with SignalWatch(announce=False) as watch:
            try:
                while not watch.stop:
                    self._fill(agenda)
                    if not self._jobs and agenda.is_over:
                        break
                    self._poll(agenda)
                    if self._jobs:
                        time.sleep(self._config.poll_s)
            finally:
                self._stop(agenda)
        if watch.stop == signal.SIGINT:
            raise KeyboardInterrupt
        if watch.stop:
            raise Stopped(watch.stop, command=self._command)

    def _fill(self, agenda: Agenda[Spec]) -> None:
        while len(self._jobs) < self._at_once and (spec := agenda.take()) is not None:
            self._start(spec, agenda)

    def _start(self, spec: Spec, agenda: Agenda[Spec]) -> None:
        found = self._left_by_others(spec)
        if found is None:
            spec.prepare()
            spec.write(Record("running", self._config.scheduler))  # from here on something may run
        job = found or self._starter.start(spec)
        spec.write(Record("running", self._config.scheduler, process=job.process))
        self._jobs.append((spec, job))
        agenda.started(spec, found_again=found is not None)

    def _left_by_others(self, spec: Spec) -> Job | None:
        """A job that still runs, of a start that was killed; one of this host is ended, a scheduler's is waited for."""
        record = spec.record()
        if record is None or record.state != "running":  # its end was seen
            return None
        await_gone(record.process, spec.folder)
        found = self._starter.find(spec) if record.scheduler == self._config.scheduler else None
        if found is not None and not spec.was_given_the_same():
            found.stop()
            return None
        return found

    def _poll(self, agenda: Agenda[Spec]) -> None:
        for spec, job in list(self._jobs):
            if (ended := job.poll()) is not None:
                self._jobs.remove((spec, job))
                state = "failed" if ended.reason else "done"
                duration_s = job.duration_s
                spec.write(Record(state, self._config.scheduler, 0, ended.reason, ended.final, round(duration_s, 1)))
                if ended.reason:
                    agenda.failed(spec, ended.reason, final=ended.final)
                else:
                    agenda.done(spec, duration_s)
                agenda.keep()

    def _stop(self, agenda: Agenda[Spec]) -> None:
        """End what runs, which is neither done nor failed then."""
        for _, job in self._jobs:
            job.ask_to_stop()
        for spec, job in self._jobs:
            if not job.stop():
                agenda.not_stopped(spec)
                continue
            with suppress(OSError):
                spec.forget()
        if self._jobs:
            agenda.keep()
        self._jobs.clear()
