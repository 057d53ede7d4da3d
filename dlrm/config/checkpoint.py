"""When the training state is saved, what is kept of it, and from where training goes on."""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from dlrm.config.base import Advanced, NonNegativeFloat, Number, PositiveFloat, PositiveInt, Section
from dlrm.config.data.paths import InputPath

Metric = Literal["auc", "log_loss", "normalised_entropy"]
NO_CHECKPOINT = "none"
NEWEST = "auto"
_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*):/(/?)([^/]*)(.*)", re.DOTALL)
_OF_BUCKETS = ("s3", "gs", "gcs")
_REMOTE = (*_OF_BUCKETS, "abfs", "abfss", "az", "adl", "hdfs", "sftp", "ssh", "http", "https")
_LOCAL = ("file", "local")
_S3_BUCKET = re.compile(r"[A-Za-z0-9._-]{1,255}|arn:.*")


def fault_in_address(path: str) -> str:
    """What is wrong with a path or URL of checkpoints as it is written, with the hint, in words; empty: nothing."""
    match = _URL.fullmatch(path)
    if match is None:
        return ""
    scheme, second_slash, first, rest = match.groups()
    host = "bucket" if scheme in _OF_BUCKETS else "" if scheme in _LOCAL else "host"
    hint = f"write {scheme}://{host}/folder"
    if not second_slash:
        return f"has one slash where a URL has two; {hint}" if scheme in _REMOTE else ""
    if scheme in _OF_BUCKETS and not first:
        return f"names no bucket; {hint}"
    if not (first or rest.strip("/")):
        return f"names no folder; {hint}"
    if scheme == "s3" and not _S3_BUCKET.fullmatch(first):
        return f"names the bucket {first!a}, and no bucket can have that name; {hint}"
    return ""


def _no_job(path: str) -> str:
    if path == "job":
        raise ValueError("job is no checkpoint: write resume.job: true (a folder of that name: ./job)")
    return path


def _checked(path: str) -> str:
    if fault := fault_in_address(path):
        raise ValueError(f"{path} {fault}")
    return path


Address = Annotated[InputPath, AfterValidator(_checked)]
"""A folder, on this host or remote."""


class CheckpointConfig(Section):
    """Checkpoints: the whole training state, from which another run with any number of ranks goes on."""

    enabled: bool = True
    """Save at all; without, SIGTERM and Ctrl-C end training at once."""
    dir: Address | None = None
    """Folder that holds the folders of runs with their checkpoints, local or remote (s3://bucket/folder); in the run's own
    folder if left out."""
    every_steps: PositiveInt | None = None
    """Save every so many steps."""
    every_minutes: PositiveFloat | None = 15.0
    """Save when so much time has passed since the last save; null: not by time."""
    at_end: bool = True
    """Save after the last step."""
    best: Metric | None = None
    """Save whenever this metric of the validation samples is better than ever before, and keep that checkpoint."""
    keep: Annotated[int, Number, Field(ge=2)] = 2
    """How many of the newest checkpoints to keep; older ones are removed once a newer one is whole on disk, but for one
    that shares no file with the newest."""
    full_every: PositiveInt = 1
    """Save everything in every so many-th checkpoint (and in a run's first two). Those between are delta checkpoints: of
    tables they hold the dirty rows alone, those that training has changed since. 1: always everything."""
    increment_bits: Literal[32, 8] = 32
    """Bits of a weight in those between: 8 quantises each row (Check-N-Run, NSDI 2022); 32 is exact."""
    on_failure: Literal["continue", "stop"] = "continue"
    """What to do when a save fails while training goes on: say so and try again when the next is due, or stop. The last
    save of a run always has to succeed."""
    time_limit_s: Advanced[PositiveFloat] = 1800.0
    """Seconds that rank 0 waits for the other ranks to have written their parts."""
    poll_s: Advanced[PositiveFloat] = 1.0
    """Seconds, about, between two looks at clock and signals, each of which costs a small all-reduce."""


class WarmStartConfig(Section):
    """Begin a new training with weights of another one whose data, vocabularies or model may differ.

    Step, schedule and order begin anew. Where the run itself goes on from a checkpoint of its own, this counts no more.
    """

    checkpoint: Address = NO_CHECKPOINT
    """The path of a checkpoint, or of a run or its checkpoints for the newest good one; none: no warm start."""
    rows: Literal["auto", "values", "ids"] = "auto"
    """Which row of a table is which of the checkpoint's: the one of the same raw value, as both data sets' vocabularies
    say (values), or of the same number (ids). auto: values where both have vocabularies, ids where neither has."""
    data: InputPath = ""
    """Packed data set with the vocabularies of the checkpoint's tables; left out: the data that it was trained on."""
    optimizer: bool = False
    """Take over the state of optimizers as well, of tables row by row."""
    average: bool = False
    """Take the averaged weights where the checkpoint has them (train.average_decay)."""
    strict: bool = True
    """Refuse a checkpoint if a table or a dense parameter does not fit it; false: such ones begin as a new model's do."""


class ResumeConfig(Section):
    """Where training begins. ``--resume auto`` and ``--resume job`` mean resume.checkpoint: auto and resume.job: true."""

    checkpoint: Annotated[Address, AfterValidator(_no_job)] = NO_CHECKPOINT
    """none: at the beginning; auto: after the newest good checkpoint of the run of this name, if there is one; otherwise
    the path of a checkpoint, or of a run, to go on from in a new run."""
    job: bool = False
    """Go on where this job of the scheduler has come to, if the scheduler has started it again (requeue, preemption, a lost
    host); what checkpoint says is for the first time. The torchx components set it."""
    wait_s: Advanced[NonNegativeFloat] = 60.0
    """Seconds to try again where checkpoints cannot be read for the moment (a mount or a store that is away) before giving
    up, without touching them; less than distributed.timeout_s."""
    strict: bool = True
    """Refuse a checkpoint that does not fit this configuration; false: load what fits and say what was left."""
    changed_data: bool = False
    """Go on at the same place although the training data are others than those it was saved with: other files, generated by
    other options, or of other weights. Other vocabularies are refused all the same."""
