"""A run of training that is killed now and then, and what came of each kill."""

from __future__ import annotations

import itertools
import random
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch

from tests.support.elastic_job import (
    ElasticJob,
    await_all_gone,
    committed_steps,
    differing_tensors,
    kill,
    saved_tensors,
    unfinished_saves,
)
from tests.support.step_log import Attempt, last_event, read_attempts, trained_samples

SAVE_EVERY = 40
VICTIMS = {"a rank": 0.5, "all ranks": 0.3, "launcher and ranks": 0.2}
MOMENTS = {"start": 0.3, "loading": 0.1, "training": 0.45, "evaluation": 0.15}  # of those that do not aim at a save
TOO_LATE = "too late"
SAVE_LASTS_S = LOADING_LASTS_S = 0.2  # about
EVALUATION_LASTS_S = 0.1
PACE_STEPS = 100  # the longest an attempt trains before it is killed, about; with saves in between, so that runs end
HANG_S = 240.0
LONGEST_RUN_S = 900.0


@dataclass
class Kill:
    """A kill and what came of it.

    Attributes:
        run: its number; aim: at what; victim: who; time_s: when.
        attempt: the one that was killed, as :class:`Attempt` calls it.
        during: what rank 0 was doing, by its log.
        saving: whether a save was under way; cut: whether one was left behind unfinished.
        committed: newest committed step when the processes were gone, 0 for none.
        resumed: the step after which the next attempt went on.
        lost_steps: trained, and not saved; recovery_s: until the next trained step.
    """

    run: int
    aim: str
    victim: str
    time_s: float
    attempt: tuple[int, int]
    during: str
    saving: bool
    cut: bool = False
    committed: int = 0
    resumed: int | None = None
    lost_steps: int = 0
    recovery_s: float | None = None


@dataclass
class Run:
    """A run that is killed now and then.

    Attributes:
        number: of it; folder: for everything it leaves.
        options: of the training; epochs: that these make; ranks: that train.
        draw: moments and victims.
        kills: what was done; problems: what was not as it should be.
    """

    number: int
    folder: Path
    options: list[str]
    epochs: int
    ranks: int
    draw: random.Random
    kills: list[Kill] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    start_lasts_s: float = 8.0

    @property
    def log(self) -> Path:
        """Folder of the step log."""
        return self.folder / "log"

    @property
    def checkpoints(self) -> Path:
        """Folder of the checkpoints."""
        return self.folder / "runs" / "killed" / "checkpoints"

    def go(self, wants_cut: Callable[[], bool], most_kills: int) -> None:
        """Train to the end, killed at most so often."""
        while True:
            with self._launch() as job:
                again = self._kill_now_and_then(job, wants_cut, most_kills)
                if not again:
                    code = job.wait(LONGEST_RUN_S)
                    if code != 0:
                        self.problems.append(f"run {self.number} ended with exit code {code}")
                    return

    def _launch(self) -> ElasticJob:
        self.folder.mkdir(parents=True, exist_ok=True)
        options = [*self.options, "--run.dir", f"{self.folder}/runs", "--run.name", "killed", "--resume", "auto"]
        options += ["--checkpoint.every_steps", str(SAVE_EVERY)]
        return ElasticJob(options, ranks=self.ranks, log=self.log, output=self.folder / "output", max_restarts=1000)

    def _kill_now_and_then(self, job: ElasticJob, wants_cut: Callable[[], bool], most_kills: int) -> bool:
        """Kill until the run has been left alone to end (False), or its launcher was killed (True)."""
        restart = -1
        while len(self.kills) < most_kills:
            restart += 1
            aim = "save" if wants_cut() else _one_of(self.draw, MOMENTS)
            watch = _Watch(self, job, restart)
            if not watch.wait_for(aim):
                if watch.last != "ended" or self.draw.random() < 0.5:
                    return False
                aim = "end"
                watch.sleep(self.draw.uniform(0, 1.0))
            victim = _one_of(self.draw, VICTIMS)
            if not self._kill(job, aim, victim, watch):
                return False
            if victim == "launcher and ranks":
                return True
        return False

    def _kill(self, job: ElasticJob, aim: str, victim: str, watch: _Watch) -> bool:
        """Kill, and write down what is there afterwards; False: there was nobody left to kill."""
        workers = job.workers()
        if len(workers) < self.ranks or job.ended:
            return False
        before = unfinished_saves(self.checkpoints)
        found = Kill(
            run=self.number,
            aim=aim,
            victim=victim,
            time_s=time.time(),
            attempt=(job.process.pid, watch.restart),
            during=watch.last,
            saving=bool(before - watch.leftovers),
        )
        if victim == "launcher and ranks":
            kill(job.process.pid)
        for pid in [self.draw.choice(workers)] if victim == "a rank" else workers:
            kill(pid)
        await_all_gone(workers, HANG_S)
        found.cut = bool(unfinished_saves(self.checkpoints) - watch.leftovers)
        found.committed = max(committed_steps(self.checkpoints), default=0)
        self.kills.append(found)
        return True

    def check(self, reference: dict[str, torch.Tensor], samples: int, steps: int) -> None:
        """Compare with what should be; adds to :attr:`problems`."""
        attempts = read_attempts(self.log)
        for killed in self.kills:
            self._follow(killed, attempts)
        if [path.name for path in (self.folder / "runs").iterdir()] != ["killed"]:
            self.problems.append(f"run {self.number} has more folders than one")
        if differing := differing_tensors(reference, saved_tensors(self.checkpoints / f"step_{steps:08d}")):
            self.problems.append(f"run {self.number}: the final {', '.join(differing[:3])} differ(s)")
        try:
            trained = trained_samples(attempts)
        except AssertionError as error:
            self.problems.append(f"run {self.number}: {error}")
            return
        per_epoch = steps // self.epochs
        for epoch in range(self.epochs):
            of_epoch = range(epoch * per_epoch + 1, (epoch + 1) * per_epoch + 1)
            counts = Counter(itertools.chain.from_iterable(trained.get(step, []) for step in of_epoch))
            if counts != Counter(range(samples)):
                self.problems.append(f"run {self.number}, epoch {epoch}: not every sample was trained once")

    def _follow(self, killed: Kill, attempts: list[Attempt]) -> None:
        mine = next((attempt for attempt in attempts if attempt.key == killed.attempt), None)
        later = [attempt for attempt in attempts if attempt.started_s > killed.time_s]
        nexts = [attempt for attempt in later if attempt.resumed is not None]
        if not later and killed.during == "ended":
            killed.aim = TOO_LATE  # the process was leaving already
            return
        if not nexts:
            self.problems.append(f"run {self.number}: nothing went on after the kill at {killed.time_s}")
            return
        killed.resumed = nexts[0].resumed
        if killed.resumed != killed.committed:
            text = f"went on after step {killed.resumed}, committed was {killed.committed}"
            self.problems.append(f"run {self.number}: {text}")
        if mine is not None and mine.last_step is not None:
            killed.lost_steps = mine.last_step - killed.committed
        first_step_s = nexts[0].first_step_s
        if first_step_s is not None and not any(killed.time_s < k.time_s < first_step_s for k in self.kills):
            killed.recovery_s = first_step_s - killed.time_s


class _Watch:
    """One attempt of a run as it goes, for choosing a moment.

    Attributes:
        last: what rank 0 logged last, "step" for instance; "ended" for all that follows the training.
        step: the last one it has trained.
        leftovers: unfinished saves of attempts before.
    """

    def __init__(self, run: Run, job: ElasticJob, restart: int) -> None:
        self._run, self._job, self.restart = run, job, restart
        self._path, self._next_path = (
            run.log / f"{job.process.pid}_{number}_rank0.jsonl" for number in (restart, restart + 1)
        )
        self.last, self.step = "not started", 0
        self.leftovers = unfinished_saves(run.checkpoints)
        self._began_s = time.monotonic()

    def wait_for(self, aim: str) -> bool:
        """Return at a moment of this kind; False if there is none any more, because training or the job has ended."""
        draw = self._run.draw
        if not self._until(lambda: len(self._job.workers()) == self._run.ranks, pause_s=0.05):
            return False
        if aim == "start":
            self.sleep(draw.uniform(0, self._run.start_lasts_s))
            return not self._is_over()
        if aim == "loading":
            if not self._until(lambda: self.last not in ("not started", "started"), pause_s=0.005):
                return False
            self.sleep(draw.uniform(0, LOADING_LASTS_S))
            return not self._is_over()
        if not self._until(lambda: self.last in ("step", "evaluating", "evaluated"), pause_s=0.02):
            return False
        self._run.start_lasts_s = time.monotonic() - self._began_s
        begin = self.step
        if aim == "training":
            skipped = draw.randint(0, PACE_STEPS)
            if not self._until(lambda: self.step >= begin + skipped, pause_s=0.01):
                return False
            self.sleep(draw.uniform(0, 0.1))
            return not self._is_over()
        skipped = draw.randint(0, PACE_STEPS // 2)
        if not self._until(lambda: self.step >= begin + skipped, pause_s=0.01):
            return False
        return self._during_evaluation() if aim == "evaluation" else self._during_save()

    def sleep(self, seconds: float) -> None:
        """Let the job go on; look what it does then."""
        time.sleep(seconds)
        self._look()

    def _during_evaluation(self) -> bool:
        if not self._until(lambda: self.last == "evaluating", pause_s=0.005):
            return False
        self.sleep(self._run.draw.uniform(0, EVALUATION_LASTS_S))
        return True

    def _during_save(self) -> bool:
        while True:
            seen = unfinished_saves(self._run.checkpoints)
            if not self._until(lambda seen=seen: bool(self._saves() - seen), pause_s=0.002):  # type: ignore[misc]
                return False
            save = self._saves() - seen
            self.sleep(self._run.draw.uniform(0, SAVE_LASTS_S))
            if save & self._saves():
                return True

    def _saves(self) -> set[str]:
        return unfinished_saves(self._run.checkpoints)

    def _until(self, condition: Callable[[], bool], pause_s: float) -> bool:
        deadline = time.monotonic() + HANG_S
        while True:
            self._look()
            if condition():
                return True
            if self._is_over():
                return False
            if time.monotonic() > deadline:
                raise TimeoutError(f"{self._path} says nothing new for {HANG_S:g} s")
            time.sleep(pause_s)

    def _is_over(self) -> bool:
        return self._job.ended or self.last == "ended"

    def _look(self) -> None:
        if self._next_path.exists():
            raise RuntimeError(
                f"attempt {self.restart} of launcher {self._job.process.pid} failed without being killed"
            )
        if self.last != "ended":
            what, step = last_event(self._path)
            self.last, self.step = what or self.last, self.step if step is None else step


def _one_of(draw: random.Random, weights: dict[str, float]) -> str:
    return draw.choices(list(weights), list(weights.values()))[0]
