"""The models of a server: a name, and the export that answers for it, until another takes its place."""

from __future__ import annotations

import os
import time
import weakref
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import pyarrow as pa
import torch

from dlrm.errors import DlrmError, ExportError
from dlrm.format import byte_size, counted, escaped
from dlrm.inference.exported.folder import ExportFolder, open_export
from dlrm.inference.exported.predictor import Predictor, load_predictor
from dlrm.inference.raw import Preprocessing
from dlrm.inference.serve.log import say
from dlrm.inference.serve.waiting import Queue

_WARMING_ROWS = (1, 32, 256)


@dataclass(frozen=True)
class Version:
    """An export in memory. Who holds one can ask it, whatever has taken its place meanwhile.

    Attributes:
        predictor, preprocessing: of the export; queue: where its requests wait.
        loaded_s: seconds since the epoch.
    """

    predictor: Predictor
    preprocessing: Preprocessing
    queue: Queue
    loaded_s: float

    @property
    def checksum(self) -> str:
        """By which it can be told from others."""
        return self.predictor.folder.checksum

    @property
    def step(self) -> int:
        """Of the checkpoint that it was made of."""
        return self.predictor.manifest.source.step

    @property
    def precisions(self) -> list[str]:
        """Of the tables."""
        return sorted({table.precision for table in self.predictor.manifest.tables})

    def __str__(self) -> str:
        manifest = self.predictor.manifest
        tables, size = counted(len(manifest.tables), "table"), byte_size(manifest.table_bytes)
        return f"step {self.step}, {tables}, {size} in {'+'.join(self.precisions)}, export {self.checksum[:12]}"


def load_version(folder: ExportFolder, name: str, *, compiled: bool) -> Version:
    """Read an export, verify it, and ask it once.

    Raises:
        ExportError: it is damaged, or does not answer.
    """
    predictor = load_predictor(folder, compiled=compiled)
    preprocessing = predictor.preprocessing
    _warm_up(predictor, preprocessing)
    return Version(predictor, preprocessing, Queue(predictor, name), time.time())


def _warm_up(predictor: Predictor, preprocessing: Preprocessing) -> None:
    """What the first calls pay for (compiled loops, choice of kernels), and whether the export answers at all."""
    example = preprocessing.example()
    preprocessing.from_arrow(pa.table({name: [value] for name, value in example.items()}))
    if preprocessing.record.kind == "criteo":
        fields = ("" if value is None else str(value) for value in example.values())
        preprocessing.from_tsv("\t".join(fields).encode(), labelled=False)
    for rows in _WARMING_ROWS:
        found_BT = predictor.probabilities(preprocessing.from_json([example] * rows))
        if found_BT.shape != (rows, len(predictor.schema.tasks)):
            raise ExportError(str(predictor.folder.path), f"answers {rows} rows with {tuple(found_BT.shape)} numbers")
    if not torch.isfinite(found_BT).all():
        hint = "look at the weights: dlrm_main.py evaluate"
        raise ExportError(str(predictor.folder.path), "answers its own example with what is no number", hint=hint)


@dataclass
class ServedModel:
    """A name and what answers for it.

    Attributes:
        name: in addresses; path: of the export, or of a link to it, as the user gave it.
        compiled: whether machine code of exports is run.
        version: what answers now. It is replaced as a whole: take it once for each request.
        problem: why the export that is at the path now is not served; empty if it is.
    """

    name: str
    path: str
    compiled: bool
    version: Version = field(repr=False)
    problem: str = ""
    _earlier: tuple[weakref.ref[Queue], ...] = ()  # of versions that may still have requests; they go with the last one
    _refused: tuple[object, ...] = ()  # the state of the export that was tried last

    @classmethod
    def load(cls, name: str, path: str, *, compiled: bool) -> ServedModel:
        """The model as it is at start.

        Raises:
            ExportError: there is no such export, or it cannot be served.
        """
        return cls(name, path, compiled, load_version(_open(path), name, compiled=compiled))

    @property
    def rows_waiting(self) -> int:
        """Rows that wait for it, those that the versions before it are to answer too."""
        earlier = (queue() for queue in self._earlier)
        return self.version.queue.rows + sum(queue.rows for queue in earlier if queue is not None)

    def look(self, tell: Callable[[str, bool], None], *, again: bool = False) -> None:
        """See whether another export is at the path, and have it answer from now on; a bad one does not.

        Args:
            tell: told the model's name and whether it was loaded, of each new export.
            again: read one that was bad again, though none of its files has changed.
        """
        before = self.version
        try:
            folder = _open(self.path)
            if folder.checksum == before.checksum:
                self.problem, self._refused = "", ()
                return
            state = _state(folder)
            if self._refused == state and not again:  # to read it all every few seconds would take the disk from others
                return
            self._refused = state
            version = load_version(folder, self.name, compiled=self.compiled)
        except Exception as error:  # whatever it is: what is served now goes on
            told = isinstance(error, DlrmError)
            problem = str(error) if told else f"{self.path}: {type(error).__name__}: {escaped(error, 200)}"
            if problem != self.problem:
                tell(self.name, False)
                say(f"{self.name} stays at {before}; the new export is not served: {problem}")
            self.problem = problem
            return
        kept = (queue for queue in self._earlier if queue() is not None)
        self._earlier = (*kept, weakref.ref(before.queue))
        self.version, self.problem = version, ""
        tell(self.name, True)
        say(f"{self.name} is now {version}; before: {before}")


def _state(folder: ExportFolder) -> tuple[object, ...]:
    """What changes when an export is written again, even with the same manifest."""
    times = ((folder.path / file.name).stat().st_mtime_ns for file in folder.manifest.files)
    return (str(folder.path), folder.checksum, *times)


def _open(path: str) -> ExportFolder:
    # A link is followed once, so that all files are of one export whatever the link does meanwhile.
    resolved = os.path.realpath(os.path.expanduser(path))
    return open_export(resolved if os.path.lexists(resolved) else path)


Models = Mapping[str, ServedModel]
"""By name."""
