"""What may happen beside the steps: showing, recording, evaluating, saving.

A hook sees every trained step and may ask for *pauses*: moments at which the pipeline has been run empty, so that what is
trained and what was read are the same, the model can be evaluated or saved, and the run may end. Every decision that a
hook takes must be the same on every rank.
"""

from __future__ import annotations

from dlrm.train.schedule import Position
from dlrm.train.stepper import StepOutput


class Hook:
    """Does nothing at every occasion; subclasses override what they care for."""

    def on_start(self, position: Position) -> str | None:
        """Before the first step; a text says why there is nothing left to train."""
        return None

    def before_steps(self, position: Position) -> None:
        """Before the first step and after each pause, if training goes on."""

    def next_pause(self, step: int) -> int | None:
        """The smallest step number after ``step`` at which this hook wants a pause; None: none of its own."""
        return None

    def on_step(self, position: Position, output: StepOutput) -> None:
        """After a step; ``position`` includes it."""

    def pauses_now(self, position: Position) -> bool:
        """Whether to pause as soon as the batches that the pipeline holds are trained; asked after each step.

        Every rank must give the same answer at the same step; a collective may be called to find it.
        """
        return False

    def on_pause(self, position: Position) -> str | None:
        """At a pause of any hook and at the end of each epoch; a text ends the training and says why."""
        return None

    def on_end(self, position: Position, reason: str) -> None:
        """After the last step, in the order of the hooks; not called after a failure."""


def multiple_after(step: int, every: int) -> int:
    """The smallest multiple of ``every`` greater than ``step``."""
    return (step // every + 1) * every
