"""Going on from the newest checkpoint that can be trusted, the same one on every rank."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from dlrm.checkpoint.folder import Skipped, newest_good
from dlrm.checkpoint.load import load_tensors
from dlrm.checkpoint.names import step_of
from dlrm.checkpoint.remote import located
from dlrm.checkpoint.soundness import DivergedStateError
from dlrm.checkpoint.storage import Storage, UnreachableError
from dlrm.checkpoint.stored import Checkpoint, open_checkpoint
from dlrm.checkpoint.tensors import GlobalTensor
from dlrm.distributed.collectives import Collectives, from_rank_0, together
from dlrm.errors import CheckpointError, CheckpointMismatchError, HalfLoadedError

Judge = Callable[[Sequence[GlobalTensor]], str]
"""Why training cannot go on from what this rank holds of a state, in words; empty: it can."""


def accept(tensors: Sequence[GlobalTensor]) -> str:
    """A judge that has no objection."""
    return ""


def require_sound(
    checkpoint: Checkpoint, tensors: Sequence[GlobalTensor], collectives: Collectives, judge: Judge
) -> None:
    """Look at what has been loaded; collective.

    Raises:
        DivergedStateError: on every rank, if a rank's judge objects.
    """

    def look() -> None:
        if problem := judge(tensors):
            problem = f"was saved after training had diverged: {problem}"
            raise DivergedStateError(checkpoint.path, problem, hint="use an older checkpoint")

    together(collectives, look)


@dataclass(frozen=True)
class Resumed:
    """What training goes on from.

    Attributes:
        checkpoint: None if there is none to be trusted, and the state as it was.
        left: where the checkpoint does not fit and the state is as it was (only if not strict).
        skipped: newer checkpoints, and why they were not taken; the same on every rank.
    """

    checkpoint: Checkpoint | None
    left: list[str]
    skipped: list[Skipped]


def load_newest(
    folder: str | Path,
    tensors: Sequence[GlobalTensor],
    collectives: Collectives,
    *,
    strict: bool = True,
    storage: Storage | None = None,
    judge: Judge = accept,
) -> Resumed:
    """Load the newest checkpoint of which every rank finds all that it needs whole; collective.

    Where a delta is damaged, that is the newest one before it in its chain. Where none is found, the state may be that
    of one to which the judge objected.

    Args:
        folder: of a run's checkpoints.
        tensors: the whole state, with the shards to fill.
        collectives: of the ranks that load together.
        strict: refuse a checkpoint that does not fit; otherwise what does not fit is left as it is.
        storage: where the folder is; what its path or URL says by default.
        judge: may object to a state that was loaded; then an older one is.

    Raises:
        UnreachableError: storage failed; the same on every rank, like all of these.
        CheckpointMismatchError: the newest good one does not fit: an older one would be no better.
        HalfLoadedError: storage failed in the middle.
    """
    storage, folder = located(folder, storage)
    skipped: list[Skipped] = []
    before: int | None = None
    damaged: set[str] = set()
    while True:
        checkpoint, passed_over = _agreed(folder, storage, before, damaged, collectives)
        skipped += passed_over
        if checkpoint is None:
            return Resumed(None, [], skipped)
        try:
            left = load_tensors(checkpoint, tensors, strict=strict, collectives=collectives)
            require_sound(checkpoint, tensors, collectives, judge)
            return Resumed(checkpoint, left, skipped)
        except (CheckpointMismatchError, HalfLoadedError, UnreachableError):
            raise
        except CheckpointError as error:  # the same on every rank
            diverged = isinstance(error, DivergedStateError)
            skipped.append(Skipped(checkpoint.path, str(error), "diverged" if diverged else "damaged"))
            before = checkpoint.step
            damaged |= _checkpoint_at(error.path)


def _checkpoint_at(path: str) -> set[str]:
    """The checkpoint that a path is, or that a file is in."""
    return {place for place in (path, path.rpartition("/")[0]) if step_of(place) is not None}


def _agreed(
    folder: str | Path, storage: Storage, before: int | None, damaged: Collection[str], collectives: Collectives
) -> tuple[Checkpoint | None, list[Skipped]]:
    """The checkpoint that rank 0 finds, opened on every rank."""

    def find() -> tuple[str | None, str, list[Skipped]]:
        found, skipped = newest_good(folder, storage=storage, before=before, damaged=damaged)
        return (None, "", skipped) if found is None else (found.path, found.manifest_checksum, skipped)

    path, manifest_checksum, skipped = from_rank_0(collectives, find)
    if path is None:
        return None, skipped

    def open_it() -> Checkpoint:
        checkpoint = open_checkpoint(path, storage)
        if checkpoint.manifest_checksum != manifest_checksum:
            problem = f"rank {collectives.rank} sees another checkpoint than rank 0"
            raise CheckpointError(path, problem, hint="use a folder that all hosts share")
        return checkpoint

    return together(collectives, open_it), skipped
