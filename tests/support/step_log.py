"""A log of what each process of a job did: where it began, the samples of each step that it trained, what it did when.

:func:`log_steps` is for the process, which trains as ever; :func:`read_attempts` for whoever wants to know afterwards. The
samples are those that the model's forward pass was given (:mod:`tests.support.numbered_data`), and a step is logged when it
has been trained. A line is one write, so that a process that is killed leaves whole lines, but perhaps for the last.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.support.numbered_data import numbers_of

FOLDER_VARIABLE = "DLRM_STEP_LOG"
_TAIL_BYTES = 1 << 12  # several lines of ranks with up to a hundred samples a step


class _Log:
    """The file of this process."""

    def __init__(self, folder: Path) -> None:
        rank, launcher = os.environ.get("RANK", "0"), os.getppid()
        restart = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
        path = folder / f"{launcher}_{restart}_rank{rank}.jsonl"
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        self.write("started", launcher=launcher, restart=int(restart), rank=int(rank), pid=os.getpid())

    def write(self, what: str, **facts: Any) -> None:
        os.write(self._file, (json.dumps({"what": what, "time_s": time.time(), **facts}) + "\n").encode())


def log_steps(folder: Path) -> None:
    """From here on this process logs what it trains; call it before training is set up."""
    # These take a second, in which a process may be killed, too.
    from dlrm.train.checkpointing.run_checkpoints import Checkpointing
    from dlrm.train.evaluator import Evaluator
    from dlrm.train.stepper import StepOutput, Stepper
    from dlrm.train.trainer import Trainer

    log = _Log(folder)
    train, find_start, evaluate, fit = Stepper.train, Checkpointing.find_start, Evaluator.evaluate, Trainer.fit
    fed: list[list[int]] = []  # of the last forward pass in training
    watched: set[int] = set()

    def remember(model: Any, arguments: tuple[Any, ...]) -> None:
        if model.training:
            batch = arguments[0]
            fed[:] = [numbers_of(batch.dense[batch.weights[:, 0] > 0])]

    def logged_train(self: Stepper, batches: Iterator[Any], first_step: int) -> Iterator[StepOutput]:
        if id(self) not in watched:
            watched.add(id(self))
            self._model.register_forward_pre_hook(remember)
        for step, output in enumerate(train(self, batches, first_step), start=first_step):
            log.write("step", step=step, samples=fed.pop())
            yield output

    def logged_find_start(self: Checkpointing, *arguments: Any, **options: Any) -> Any:
        log.write("loading")
        start = find_start(self, *arguments, **options)
        log.write("resumed", step=start.position.step)
        return start

    def logged_evaluate(self: Evaluator, *arguments: Any, **options: Any) -> Any:
        log.write("evaluating")
        result = evaluate(self, *arguments, **options)
        log.write("evaluated")
        return result

    def logged_fit(self: Trainer) -> str:
        reason = fit(self)
        log.write("ended", step=self.position.step)
        return reason

    Stepper.train = logged_train  # type: ignore[method-assign]
    Checkpointing.find_start = logged_find_start  # type: ignore[method-assign]
    Evaluator.evaluate = logged_evaluate  # type: ignore[method-assign]
    Trainer.fit = logged_fit  # type: ignore[method-assign]


@dataclass
class Attempt:
    """All ranks of a job from one start to their end.

    Attributes:
        key: (launcher's process id, how often it had started ranks again).
        events: by rank, in order of time.
    """

    key: tuple[int, int]
    events: dict[int, list[dict[str, Any]]] = field(default_factory=dict)

    @property
    def started_s(self) -> float:
        """When its first rank could log, seconds since the epoch."""
        return min(float(events[0]["time_s"]) for events in self.events.values())

    @property
    def resumed(self) -> int | None:
        """The step after which it went on; None: no rank has come so far."""
        found = {event["step"] for events in self.events.values() for event in events if event["what"] == "resumed"}
        if len(found) > 1:
            raise AssertionError(f"ranks of {self.key} went on from different steps: {sorted(found)}")
        return found.pop() if found else None

    @property
    def steps(self) -> dict[int, dict[int, list[int]]]:
        """By rank and step: the samples trained."""
        return {
            rank: {event["step"]: event["samples"] for event in events if event["what"] == "step"}
            for rank, events in self.events.items()
        }

    @property
    def last_step(self) -> int | None:
        """The last one that any rank has trained."""
        return max((step for steps in self.steps.values() for step in steps), default=None)

    @property
    def first_step_s(self) -> float | None:
        """When the first step was trained."""
        times = [event["time_s"] for events in self.events.values() for event in events if event["what"] == "step"]
        return min(times, default=None)


def read_attempts(folder: Path) -> list[Attempt]:
    """What was logged, in order of time."""
    attempts: dict[tuple[int, int], Attempt] = {}
    for path in folder.glob("*.jsonl"):
        if events := read_events(path):
            key = (events[0]["launcher"], events[0]["restart"])
            attempts.setdefault(key, Attempt(key)).events[events[0]["rank"]] = events
    return sorted(attempts.values(), key=lambda attempt: attempt.started_s)


def read_events(path: Path) -> list[dict[str, Any]]:
    """The whole lines of a file."""
    text = path.read_bytes()
    return [json.loads(line) for line in text[: text.rfind(b"\n") + 1].splitlines()]


def last_event(path: Path) -> tuple[str, int | None]:
    """What a process has logged last, in a word, and the last step it has trained, if that is not long ago.

    The word is "ended" for all that follows its training; it is empty if the process has not begun.
    """
    try:
        with path.open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - _TAIL_BYTES))
            tail = file.read()
    except FileNotFoundError:
        return "", None
    events = [json.loads(line) for line in tail.split(b"\n")[:-1] if line.startswith(b'{"what"')]
    words = [event["what"] for event in events]
    step = max((event["step"] for event in events if event["what"] == "step"), default=None)
    return "ended" if "ended" in words else words[-1] if words else "", step


def trained_samples(attempts: list[Attempt]) -> dict[int, list[int]]:
    """By step: the samples that the final state of a run was trained on, from all ranks.

    An attempt counts from where it began to where the next began.

    Raises:
        AssertionError: an attempt did not train step after step from where it began, went back behind the one before, or a
            step that was trained again was trained on other samples.
    """
    resumed = [attempt for attempt in attempts if attempt.resumed is not None]
    trained: dict[int, list[int]] = {}
    for attempt, later in zip(resumed, [*resumed[1:], None], strict=True):
        begin, end = attempt.resumed, None if later is None else later.resumed
        assert begin is not None
        by_rank = attempt.steps
        for rank, steps in by_rank.items():
            expected = list(range(begin + 1, begin + 1 + len(steps)))
            assert list(steps) == expected, (
                f"rank {rank} of {attempt.key} began after {begin}, trained {list(steps)[:3]}"
            )
        last = min(max(steps, default=begin) for steps in by_rank.values())
        assert end is None or begin <= end <= last, (
            f"{attempt.key} trained {begin} .. {last}, the next began after {end}"
        )
        for step in range(begin + 1, (last if end is None else end) + 1):
            trained[step] = [sample for rank in sorted(by_rank) for sample in by_rank[rank][step]]
    _assert_repeated_alike(attempts, trained)
    return trained


def _assert_repeated_alike(attempts: list[Attempt], trained: dict[int, list[int]]) -> None:
    for attempt in attempts:
        for step in set.intersection(*(set(steps) for steps in attempt.steps.values())):
            samples = [sample for rank in sorted(attempt.steps) for sample in attempt.steps[rank][step]]
            assert sorted(samples) == sorted(trained.get(step, samples)), (
                f"step {step} of {attempt.key} took other samples"
            )
