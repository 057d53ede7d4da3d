"""The vocabularies by which a checkpoint's rows were numbered, against those of the data at hand.

A vocabulary that follows from the files of a folder changes with them, and with it the row of every value. So each
checkpoint has a digest of each column's (:meth:`dlrm.data.source.Source.vocabularies`).
"""

from __future__ import annotations

from collections.abc import Mapping

from dlrm.checkpoint.stored import Checkpoint
from dlrm.errors import CheckpointError, CheckpointMismatchError
from dlrm.format import escaped

VOCABULARIES = "vocabularies"
"""Where the digests are in a checkpoint's metadata."""
_HINT = "name the files that it was made of then: data.vocabulary.files, data.vocabulary.folder"


def saved_vocabularies(checkpoint: Checkpoint) -> dict[str, str] | None:
    """The digest of each column's vocabulary; None where the checkpoint does not say.

    Raises:
        CheckpointError: they are none.
    """
    found = checkpoint.metadata.get(VOCABULARIES)
    if found is None:
        return None
    if not isinstance(found, dict) or not all(isinstance(digest, str) for digest in found.values()):
        raise CheckpointError(checkpoint.path, f"facts.{VOCABULARIES} are no digests by column", hint="use another one")
    return found


def require_same_vocabularies(checkpoint: Checkpoint, here: Mapping[str, str]) -> None:
    """See that every row means what it did in training, as far as the checkpoint says.

    Args:
        checkpoint: an open one.
        here: the digests of the data at hand, by column.

    Raises:
        CheckpointMismatchError: a column has another vocabulary, or has none any more, or had none.
        CheckpointError: what the checkpoint says of them is not to be understood.
    """
    saved = saved_vocabularies(checkpoint)
    if saved is None:
        return
    differing = sorted(name for name in saved.keys() | here.keys() if saved.get(name) != here.get(name))
    if differing:
        first, others = differing[0], len(differing) - 1
        what = "has a vocabulary here and had none in training"
        if first in saved:
            what = "has another vocabulary than in training" if first in here else "had a vocabulary in training"
        more = f" (and {others} more differ)" if others else ""
        message = f"column {escaped(first, 60)} {what}{more}: its values would take each other's rows"
        raise CheckpointMismatchError(checkpoint.path, [message], hint=_HINT)


def uncompared_line(checkpoint: Checkpoint, here: Mapping[str, str]) -> list[str]:
    """What is to be said where nothing is known of the vocabularies of training."""
    unknown = here and VOCABULARIES not in checkpoint.metadata
    return ["the checkpoint does not say which vocabularies it was trained with: not compared"] if unknown else []
