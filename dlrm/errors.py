"""What can go wrong that the user can mend.

Each error carries facts (where, what, how to mend it); the one-line wording for people is made by ``str(error)`` and
printed by the command, which then exits with :data:`USER_ERROR_EXIT_CODE`. Everything else that is raised is a bug or
the machine's fault and keeps its traceback. All of them survive pickling, because rank 0 sends what it found wrong to
the other ranks.
"""

from __future__ import annotations

import signal
from collections.abc import Sequence
from dataclasses import dataclass

from dlrm.format import printable

USER_ERROR_EXIT_CODE = 2
DIVERGED = "training has diverged"
"""What the line of every :class:`DivergedError` says, by which those who read the line know it."""


class DlrmError(Exception):
    """Root of everything a user can mend without reading the code.

    What names, values and paths hold beside text comes out as in a Python string: nothing in a message controls a terminal,
    and nothing but a list of several mistakes has more than one line.

    Attributes:
        may_pass: whether another start may succeed although nobody has mended anything, so that a scheduler may try.
    """

    may_pass = False

    def __str__(self) -> str:
        return printable(super().__str__())


class SetupError(DlrmError):
    """The installation or the machine does not offer what is needed (packages, devices, environment variables)."""


@dataclass(frozen=True)
class ConfigProblem:
    """One mistake in the configuration.

    Attributes:
        key: dotted path of the option, e.g. ``train.epochs``; empty when the file as a whole is meant.
        origin: where the value came from, e.g. ``configs/a.yaml:12`` or ``command line``.
        message: what is wrong and how to mend it, without the key.
    """

    key: str
    origin: str
    message: str

    def __str__(self) -> str:
        return printable(": ".join(part for part in (self.origin, self.key, self.message) if part))


class ConfigError(DlrmError):
    """One or more mistakes in the configuration; all of them, so that they can be mended in one go."""

    def __init__(self, problems: Sequence[ConfigProblem]) -> None:
        super().__init__(tuple(problems))
        self.problems = tuple(problems)

    @classmethod
    def at(cls, key: str, message: str, origin: str = "") -> ConfigError:
        """An error with a single problem."""
        return cls([ConfigProblem(key=key, origin=origin, message=message)])

    def __str__(self) -> str:
        if len(self.problems) == 1:
            return str(self.problems[0])
        lines = "\n".join(f"  {problem}" for problem in self.problems)
        return f"{len(self.problems)} mistakes in the configuration\n{lines}"


class DataError(DlrmError):
    """Data that cannot be read or must not be trained on.

    Attributes:
        path: the file (or a generator's name), row: 1-based row of the file, column: its name.
        problem: what is wrong, with the value; hint: what the user can do.
    """

    def __init__(
        self, path: str, problem: str, *, row: int | None = None, column: str | None = None, hint: str = ""
    ) -> None:
        super().__init__(path, problem, row, column, hint)
        self.path, self.problem, self.row, self.column, self.hint = path, problem, row, column, hint

    def __reduce__(self) -> tuple[object, ...]:
        # Keyword-only arguments do not survive Exception's own pickling.
        return _rebuild_data_error, (self.path, self.problem, self.row, self.column, self.hint)

    def __str__(self) -> str:
        where = [self.path]
        if self.row is not None:
            where.append(f"row {self.row}")
        if self.column is not None:
            where.append(f"column {self.column}")
        tail = f"; {self.hint}" if self.hint else ""
        return printable(f"{', '.join(where)}: {self.problem}{tail}")


def _rebuild_data_error(path: str, problem: str, row: int | None, column: str | None, hint: str) -> DataError:
    return DataError(path, problem, row=row, column=column, hint=hint)


class PlanError(DlrmError):
    """No sharding plan satisfies the constraints on this topology, or a plan asks for what a device cannot do."""


class DivergedError(DlrmError):
    """Training has left the finite numbers; the learning rates are the user's."""

    def __init__(self, found: str) -> None:
        super().__init__(found)
        self.found = found

    def __str__(self) -> str:
        return (
            f"{self.found}: {DIVERGED}; lower the learning rates (optim.dense.lr, optim.sparse.lr), warm up "
            "longer or set optim.clip_norm"
        )


class StoppedBySignal(DlrmError):  # noqa: N818  # no error of anybody's
    """Training has ended early because a signal asked for it, after saving what it had come to.

    Attributes:
        number: of the signal; step: trained global batches.
    """

    def __init__(self, number: int, step: int) -> None:
        super().__init__(number, step)
        self.number, self.step = number, step

    def __str__(self) -> str:
        name = signal.Signals(self.number).name
        if not self.step:
            return f"stopped by {name} before the first step was trained"
        return f"stopped by {name} after step {self.step}, which is saved; go on with --resume auto"


class CheckpointError(DlrmError):
    """A checkpoint that cannot be written, is not whole or is not to be trusted.

    Attributes:
        path: the file or folder; problem: what is wrong with it, with the value; hint: what the user can do.
    """

    def __init__(self, path: str, problem: str, *, hint: str = "") -> None:
        super().__init__(path, problem, hint)
        self.path, self.problem, self.hint = path, problem, hint

    def __reduce__(self) -> tuple[object, ...]:
        # Keyword-only arguments do not survive Exception's own pickling.
        return _rebuild_checkpoint_error, (type(self), self.path, self.problem, self.hint)

    def __str__(self) -> str:
        return printable(f"{self.path}: {self.problem}{self._tail}")

    @property
    def _tail(self) -> str:
        return f"; {self.hint}" if self.hint else ""


def _rebuild_checkpoint_error(kind: type[CheckpointError], path: str, problem: str, hint: str) -> CheckpointError:
    return kind(path, problem, hint=hint)


class ExportError(CheckpointError):
    """An export that cannot be written, is not whole or is not to be trusted."""


class HalfLoadedError(CheckpointError):
    """Storage failed while a checkpoint that had been found whole was loaded: the state is part old, part new."""


class CheckpointMismatchError(CheckpointError):
    """A checkpoint that is whole but of another model; all that differs, so that it can be judged in one go.

    Attributes:
        differences: each in words.
    """

    def __init__(self, path: str, differences: Sequence[str], *, hint: str = "") -> None:
        count = len(differences)
        super().__init__(path, f"does not fit{f' in {count} places' if count > 1 else ''}", hint=hint)
        self.differences = tuple(differences)

    def __str__(self) -> str:
        lines = [f"{self.path}: {self.problem}:", *self.differences]
        separator = " " if len(lines) == 2 else "\n  "
        return separator.join(map(printable, lines)) + printable(self._tail)

    def __reduce__(self) -> tuple[object, ...]:
        return _rebuild_mismatch_error, (self.path, self.differences, self.hint)


def _rebuild_mismatch_error(path: str, differences: tuple[str, ...], hint: str) -> CheckpointMismatchError:
    return CheckpointMismatchError(path, differences, hint=hint)
