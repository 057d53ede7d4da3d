"""Names in a folder of checkpoints, and in a checkpoint."""

from __future__ import annotations

import re
import secrets

COMMITTED_NAME = "COMMITTED"
"""Written last: a folder without it is no checkpoint."""
OWNER_NAME = "owner.json"
"""In a working folder: who rank 0 of the save is."""
_COMPLETE = re.compile(r"step_([0-9]{8,18})")
_WORKING = re.compile(r"step_[0-9]{8,18}\.tmp-[0-9a-f]{16}")
_DISCARDED = re.compile(r"step_[0-9]{8,18}\.dead-[0-9a-f]{16}")
_CLAIM = re.compile(r"owner\.([0-9a-f]{16})\.([0-9]{1,12})\.json(\.unfinished)?")
_MADE = re.compile(r"step_[0-9]{8,18}(\.(tmp|dead|damaged|diverged)-[0-9a-f]{16})?")
_IN_ONE = re.compile(
    r"(COMMITTED|manifest\.json|owner\.json|rank_[0-9]{4,9}((_[0-9]{1,6})?\.safetensors|\.json|\.failed))(\.unfinished)?"
)


def new_token() -> str:
    """What tells one save from any other."""
    return secrets.token_hex(8)


def checkpoint_name(step: int) -> str:
    """The folder of the checkpoint of a step: ``step_00001200``."""
    return f"step_{step:08d}"


def step_of(path: str) -> int | None:
    """The step of a checkpoint by the name or path of its folder, None for anything else."""
    name = path.rpartition("/")[2]
    match = _COMPLETE.fullmatch(name)
    return int(match[1]) if match and checkpoint_name(int(match[1])) == name else None


def working_path(final: str, token: str) -> str:
    """Where a checkpoint is until it is whole."""
    return f"{final}.tmp-{token}"


def discarded_path(final: str) -> str:
    """Where a folder goes that is about to be removed."""
    return f"{final}.dead-{new_token()}"


def aside_path(final: str, why: str) -> str:
    """Where a checkpoint goes that is of no use, ``damaged`` or ``diverged``, and that somebody may want to look at."""
    return f"{final}.{why}-{new_token()}"


def is_working(name: str) -> bool:
    """Whether a name is one that :func:`working_path` makes."""
    return _WORKING.fullmatch(name) is not None


def is_discarded(name: str) -> bool:
    """Whether a name is one that :func:`discarded_path` makes."""
    return _DISCARDED.fullmatch(name) is not None


def tensors_name(rank: int, index: int) -> str:
    """A rank's file number ``index`` of tensors."""
    return f"rank_{rank:04d}.safetensors" if index == 0 else f"rank_{rank:04d}_{index}.safetensors"


def done_name(rank: int) -> str:
    """The file by which a rank says that it has written everything, and what."""
    return f"rank_{rank:04d}.json"


def failed_name(rank: int) -> str:
    """The file by which a rank says that it has failed, and why."""
    return f"rank_{rank:04d}.failed"


def claim_name(token: str, beat: int) -> str:
    """The file by which a job claims a folder of checkpoints (:mod:`dlrm.checkpoint.claim`)."""
    return f"owner.{token}.{beat}.json"


def claim_of(name: str) -> tuple[str, int] | None:
    """Token and beat in a name that :func:`claim_name` makes, None for anything else."""
    match = _CLAIM.fullmatch(name)
    return (match[1], int(match[2])) if match and not match[3] else None


def is_of_checkpoints(path: str, *, folder: bool) -> bool:
    """Whether saving makes a folder, or a file, with this path in a folder of checkpoints."""
    name, _, inner = path.partition("/")
    if not inner:
        return (_MADE if folder else _CLAIM).fullmatch(name) is not None
    return not folder and _MADE.fullmatch(name) is not None and _IN_ONE.fullmatch(inner) is not None
