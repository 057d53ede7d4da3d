"""What all steps of a preprocessing job need to know."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from dlrm.config.prepare import PreprocessConfig
from dlrm.preprocess.disk import Extent
from dlrm.preprocess.sources import SourceFile
from dlrm.preprocess.work_folder import WorkFolder
from dlrm.progress import Progress


@dataclass(frozen=True)
class Source:
    """A raw file as it was when the job began: when it was modified last (nanoseconds) and about how much is in it."""

    file: SourceFile
    mtime_ns: int
    extent: Extent


@dataclass(frozen=True)
class Setting:
    """One rank's view of a job.

    Attributes:
        config: as the user gave it; work: the intermediate files.
        sources: the raw files, in order.
        chunk_bytes, bucket_rows: as the job began; a job that goes on does so with the same.
        rank, world_size: which share of the work is done here.
        threads: that work here at a time.
        progress: tells the user; silent on other ranks than 0.
    """

    config: PreprocessConfig
    work: WorkFolder
    sources: tuple[Source, ...]
    chunk_bytes: int
    bucket_rows: int
    rank: int
    world_size: int
    threads: int
    progress: Progress

    def own(self, sizes: Sequence[int]) -> list[int]:
        """Which of some things of these sizes are this rank's."""
        return [i for i, owner in enumerate(owners(sizes, self.world_size)) if owner == self.rank]

    @property
    def own_files(self) -> list[int]:
        """The source files that this rank reads."""
        return self.own([source.file.bytes for source in self.sources])


def owners(sizes: Sequence[int], ranks: int) -> list[int]:
    """Deal things out to ranks: the largest first, each to the rank that has the least (the lowest of them)."""
    loads, owner = [0] * ranks, [0] * len(sizes)
    for i in sorted(range(len(sizes)), key=lambda i: (-sizes[i], i)):
        owner[i] = min(range(ranks), key=lambda rank: loads[rank])
        loads[owner[i]] += sizes[i]
    return owner
