"""Running the repeats of an experiment, one after the other or several at a time, and keeping what they have found."""

from __future__ import annotations

import signal
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from dlrm.config.experiment import ScaleConfig
from dlrm.errors import DlrmError, StoppedBySignal
from dlrm.format import counted
from dlrm.run.console import Display
from dlrm.scaling.experiments.jobs import Ended, Job, Starter, await_gone
from dlrm.scaling.experiments.matrix import Point
from dlrm.scaling.experiments.repeats import Record, Repeat
from dlrm.scaling.experiments.results import write_results
from dlrm.scaling.experiments.rows import Rows
from dlrm.scaling.experiments.text import Progress
from dlrm.scaling.table import DONE, FAILED, MISSING, Row
from dlrm.signals import SignalWatch

_Key = tuple[str, int]


class RepeatsFailed(DlrmError):  # noqa: N818  # what it says is what it is
    """Some repeats have failed; all others are done."""

    may_pass = True  # exit code 1: they may succeed when scale is started again


class Stopped(StoppedBySignal):
    """A signal has ended an experiment; its jobs are stopped, and its table is written."""

    def __str__(self) -> str:
        return f"stopped by {signal.Signals(self.number).name}; started again, scale goes on"


class Table:
    """The rows of an experiment as its jobs end, and their files.

    Args:
        experiment: its name.
        points: all of them, also those that are not to be run now.
        repeats: of each.
        folder: for the files.
        others: rows that no repeat has left: what is predicted, what was published.
    """

    def __init__(
        self,
        experiment: str,
        points: Sequence[Point],
        repeats: Sequence[Repeat],
        folder: Path,
        others: Sequence[Row] = (),
    ) -> None:
        self._folder = folder
        self._factors = {point.name: point.factors for point in points}
        self._of = {point.name: Rows(experiment, point) for point in points}
        self._rows: dict[_Key, list[Row]] = {}
        for repeat in repeats:
            self.missing(repeat)
        self._others = others

    @property
    def rows(self) -> list[Row]:
        """All, by point."""
        measured = [row for rows in self._rows.values() for row in rows]
        order = {name: number for number, name in enumerate(self._of)}
        return sorted([*measured, *self._others], key=lambda row: order.get(row.point, len(order)))

    def done(self, repeat: Repeat) -> None:
        """It has a result, which is there to be read."""
        found = repeat.result()
        assert found is not None, repeat.folder
        self._rows[_key(repeat)] = self._of[repeat.point.name].of_result(repeat.number, found)

    def failed(self, repeat: Repeat, reason: str) -> None:
        """It has none, for a reason."""
        self._rows[_key(repeat)] = [self._of[repeat.point.name].without_figures(repeat.number, FAILED, reason)]

    def missing(self, repeat: Repeat, reason: str = "") -> None:
        """It was not run."""
        self._rows[_key(repeat)] = [self._of[repeat.point.name].without_figures(repeat.number, MISSING, reason)]

    def status(self, repeat: Repeat) -> str:
        """Of a repeat."""
        return self._rows[_key(repeat)][0].status

    def write(self) -> None:
        """Replace the files."""
        write_results(self.rows, self._factors, self._folder)


def _key(repeat: Repeat) -> _Key:
    return repeat.point.name, repeat.number


class Runner:
    """Runs repeats.

    Args:
        config: of the command.
        table: gets what they find.
        starter: starts their jobs.
        progress: is told of them.
    """

    def __init__(self, config: ScaleConfig, table: Table, starter: Starter, progress: Progress) -> None:
        self._config, self._table, self._starter, self._progress = config, table, starter, progress
        self._jobs: list[Job] = []
        self._given_up: dict[str, str] = {}  # points that would fail in every repeat, and why

    def look(self, repeats: Sequence[Repeat], *, say: Display | None = None) -> list[Repeat]:
        """Take what is there from earlier starts; those that are to be run, in their order.

        Args:
            repeats: to look at.
            say: is told what is run again although it has a result, if that is to be said.
        """
        left = []
        for repeat in repeats:
            state, record = repeat.state(), repeat.record()
            if state == "done":
                self._table.done(repeat)
            elif state == "failed" and record is not None:
                self._table.failed(repeat, record.reason)
                if self._config.retry:
                    left.append(repeat)
            else:
                left.append(repeat)
            if state == "changed":
                self._table.missing(repeat, "its result is of another configuration")
                if say is not None:
                    say.say(f"{repeat.name}: its result is of another configuration; it is run again")
        return left

    def run(self, left: Sequence[Repeat]) -> None:
        """Run them all.

        Raises:
            KeyboardInterrupt: after Ctrl-C, when the jobs are stopped and the table is written.
            Stopped: the same after another signal.
        """
        waiting = list(left)
        self._progress.begin(len(waiting))
        with SignalWatch(announce=False) as watch:
            try:
                while (waiting or self._jobs) and not watch.stop:
                    while waiting and len(self._jobs) < self._config.at_once:
                        self._start(waiting.pop(0))
                    self._poll()
                    if self._jobs:
                        time.sleep(self._config.poll_s)
            finally:
                self._stop()
        if watch.stop == signal.SIGINT:
            raise KeyboardInterrupt
        if watch.stop:
            raise Stopped(watch.stop, 0)

    def _start(self, repeat: Repeat) -> None:
        if why := self._given_up.get(repeat.point.name):
            self._table.missing(repeat, f"not run: another repeat has failed for good: {why}")
            self._progress.skipped()
            return
        found = self._left_by_others(repeat)
        if found is None:
            repeat.prepare()
            repeat.write(Record("running", self._config.scheduler))  # from here on something may run
        job = found or self._starter.start(repeat)
        repeat.write(Record("running", self._config.scheduler, process=job.process))
        self._jobs.append(job)
        self._progress.started(repeat, found_again=found is not None)

    def _left_by_others(self, repeat: Repeat) -> Job | None:
        """A job that still runs, of a start that was killed; one of this host is ended, a scheduler's is waited for."""
        record = repeat.record()
        if record is None or record.state != "running":  # its end was seen
            return None
        await_gone(record.process, repeat.folder)
        found = self._starter.find(repeat) if record.scheduler == self._config.scheduler else None
        if found is not None and not repeat.was_given_the_same():
            found.stop()
            return None
        return found

    def _poll(self) -> None:
        for job in list(self._jobs):
            if (ended := job.poll()) is not None:
                self._jobs.remove(job)
                self._end(job, ended)
                self._table.write()

    def _end(self, job: Job, ended: Ended) -> None:
        repeat, state = job.repeat, "failed" if ended.reason else "done"
        record = Record(state, self._config.scheduler, 0, ended.reason, ended.final, round(job.duration_s, 1))
        repeat.write(record)
        if ended.reason:
            self._table.failed(repeat, ended.reason)
            if ended.final:
                self._given_up[repeat.point.name] = ended.reason
            self._progress.failed(repeat, ended.reason)
        else:
            self._table.done(repeat)
            self._progress.done(repeat, job.duration_s)

    def _stop(self) -> None:
        """End what runs, which is neither done nor failed then."""
        for job in self._jobs:
            job.ask_to_stop()
        for job in self._jobs:
            if not job.stop():
                self._progress.not_stopped(job.repeat)
                continue
            with suppress(OSError):
                job.repeat.forget()
        if self._jobs:
            self._table.write()
        self._jobs.clear()


def see_that_all_are_done(table: Table, repeats: Sequence[Repeat]) -> None:
    """See that all of them are done.

    Raises:
        RepeatsFailed: some are not.
    """
    bad = [repeat for repeat in repeats if table.status(repeat) != DONE]
    if bad:
        points = list(dict.fromkeys(repeat.point.name for repeat in bad))
        raise RepeatsFailed(
            f"{counted(len(bad), 'repeat')} of {len(repeats)} failed or did not run (points {', '.join(points)}); "
            "started again, scale runs them again"
        )
