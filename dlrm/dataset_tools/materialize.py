"""``dlrm_main.py materialize``: MLPerf DLRM-DCNv2's multi-hot files from one-hot ids, byte for byte as its script does.

The recipe's script keeps a day's arrays in memory (150 GB) and leaves them to ``np.savez``. Here each array goes into the
archive a few MiB at a time, one table after the other, so that at most one lookup table is in use at a time; the archive is
the one that ``np.savez`` of the same Python and NumPy writes, to the byte.

A file is written beside its final name and renamed, so it is there whole or not at all; a run that was killed goes on with
the first part that is missing. What is replaced is surely this command's: the data set's manifest lists it, or the command
has noted its name in the folder before it wrote it.
"""

from __future__ import annotations

import os
import shutil
import zipfile
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from dlrm.config.prepare import MaterializeConfig
from dlrm.data.multi_hot.dataset import multi_hot_schema
from dlrm.data.multi_hot.lookup import LookupBags
from dlrm.data.multi_hot.recipe import Recipe
from dlrm.data.packed.arrays import MappedFile
from dlrm.data.packed.folder import PackedPart, open_packed
from dlrm.data.packed.manifest import SUFFIXES, FileRecord, Manifest, PartRecord
from dlrm.data.packed.naming import read_manifest
from dlrm.data.packed.npz import map_members, verify_checksums
from dlrm.data.packed.own import check_own, listed_names
from dlrm.data.packed.remote import is_remote
from dlrm.data.packed.write import file_record, npy_header, write_manifest
from dlrm.errors import ConfigError, DataError, SetupError
from dlrm.files import alone, written_beside
from dlrm.progress import Progress, shown_progress
from dlrm.schema import Schema

T = TypeVar("T")
R = TypeVar("R")

_CHUNK_BYTES = 4 << 20  # of an array that are made and written at a time
_CHECKED_ROWS = 1 << 18  # of a part that are checked at a time: 26 MiB of Criteo's int32 ids
_COMPARED_ROWS = 64  # of each array of a file that is kept
_THREADS = min(4, os.cpu_count() or 1)  # more than one is already faster than zipfile's CRC-32
_WRITTEN = ".materialize.written"
_WRITE_ANEW = "set overwrite to true to write it anew, or give the options it was written with"


def run_materialize(config: MaterializeConfig) -> None:
    """Write ``<part>_sparse_multi_hot.npz`` for every part of a packed data set and enter it in its dataset.json.

    The files are entered where they lie in the data set's own folder; in another one they are for readers without a
    manifest.

    Raises:
        ConfigError: rows or hotness do not fit the data.
        DataError: the data set is damaged; an id outside of its table; a file that is there already has other ids, or
            is to be written anew and not this command's; the disk is full.
        SetupError: no room for the lookup tables; another process is at work in the folder.
    """
    if is_remote(config.path):
        raise ConfigError.at("path", f"{config.path} is remote: copy the data set to this host first")
    source = Path(config.path).expanduser()
    read_manifest(str(source))  # before a folder is made of a misspelt path
    output = Path(config.output).expanduser() if config.output else source
    try:
        output.mkdir(parents=True, exist_ok=True)
        with alone(output / ".materialize.lock", patience_s=0), shown_progress(True) as progress:
            _materialize(config, source, output, progress)
    except BlockingIOError:
        raise SetupError(f"{output}: another process materializes there; wait for it or end it") from None
    except OSError as error:
        hint = "make room, or see to its permissions, and run again: finished parts are kept"
        raise DataError(error.filename or str(output), f"cannot be written ({error.strerror})", hint=hint) from None


def _materialize(config: MaterializeConfig, source: Path, output: Path, progress: Progress) -> None:
    record = _Record.of(source, output)
    folder = open_packed(str(source), rows=None if record.manifest else config.rows, rows_key="rows")
    schema = multi_hot_schema(_with_rows(folder.schema, config.rows), config.hotness, key="hotness")
    recipe = Recipe.of(schema, config.distribution, config.seed)
    files = [_PartFile(part, schema, output, fold=config.bad_ids == "hash") for part in folder.parts]
    missing = [file for file in files if config.overwrite or not os.path.lexists(file.path)]
    own = record.own_names | _noted_names(output)
    check_own((file.path for file in missing if os.path.lexists(file.path)), output, own)
    _check_room(output, missing)
    progress.step("lookup tables", recipe.starts[-1])
    bags = LookupBags(recipe, config.cache_dir, progress.advance)
    kept = [file for file in files if file not in missing]
    progress.step("checksums of what is there", sum(file.array_bytes for file in kept))
    for file in _ahead(_PartFile.verified, kept):
        progress.advance(file.array_bytes)
    progress.step("checks", sum(file.part.rows for file in files))
    for file in files:
        if file in missing:
            file.check_ids()
        else:
            file.check_kept(bags)
        progress.advance(file.part.rows)
    if missing:
        _note_names(output, own | {file.path.name for file in missing})
    record.drop({file.part.name for file in missing})
    for number, file in enumerate(files, start=1):
        if file in missing:
            progress.step(f"{file.part.name} ({number} of {len(files)})", file.array_bytes)
            file.write(bags, progress.advance)
        else:
            progress.say(f"{file.part.name} ({number} of {len(files)}): kept {file.path}")
        record.enter(file, schema)


class _PartFile:
    """The multi-hot file of one part.

    Args:
        part: the one-hot part; schema: columns with rows and hotness; output: folder of the file.
        fold: take stored ids modulo the rows of their table.
    """

    def __init__(self, part: PackedPart, schema: Schema, output: Path, *, fold: bool) -> None:
        self.part = part
        self.path = output / (part.name + SUFFIXES["multi_hot"])
        self.array_bytes = 4 * part.rows * schema.ids_per_sample
        self._features = schema.sparse
        self._fold = fold

    def _stored_ids(self, rows: slice | NDArray[np.int64], columns: int | slice = slice(None)) -> NDArray[np.integer]:
        self.part.files["sparse"].check_size()  # reading beyond a file's end would kill the process
        ids: NDArray[np.integer] = self.part.sparse_MF[rows, columns]
        return ids

    def check_ids(self) -> None:
        """Make sure that every stored id is in its table, unless ids are folded into it."""
        if self._fold:
            return
        rows_F = np.array([feature.rows for feature in self._features])
        for start in range(0, self.part.rows, _CHECKED_ROWS):
            ids_BF = self._stored_ids(slice(start, start + _CHECKED_ROWS))
            if ((ids_BF.min(axis=0) >= 0) & (ids_BF.max(axis=0) < rows_F)).all():
                continue
            row, column = np.argwhere((ids_BF < 0) | (ids_BF >= rows_F))[0]
            raise DataError(
                self.part.paths["sparse"],
                f"id {ids_BF[row, column]} is outside of its table (0 .. {rows_F[column] - 1})",
                row=start + int(row) + 1,
                column=self._features[column].name,
                hint="give the right rows, mend the data, or set bad_ids to hash, which takes it modulo the rows",
            )

    def verified(self) -> _PartFile:
        """Make sure that the bytes of a file that is there are those that were written: an archive with the right CRCs."""
        try:
            verify_checksums(MappedFile(str(self.path)))
        except DataError as error:
            raise _anew(error) from None
        return self

    def check_kept(self, bags: LookupBags) -> None:
        """Make sure that a file that is there is what this run would write: its form, and rows from all over it."""
        some_K = np.linspace(0, self.part.rows - 1, min(self.part.rows, _COMPARED_ROWS)).astype(np.int64)
        try:
            arrays = map_members(MappedFile(str(self.path)), ("<i4",), count=len(self._features))
        except DataError as error:
            raise _anew(error) from None
        for feature, array_ML in enumerate(arrays):
            shape = (self.part.rows, self._features[feature].hotness)
            name, column = f"{self.path}:{feature}.npy", self._features[feature].name
            if array_ML.shape != shape:
                raise DataError(name, f"has shape {array_ML.shape} instead of {shape}", column=column, hint=_WRITE_ANEW)
            other_K = (array_ML[some_K] != self._bags(bags, feature, some_K)).any(axis=1)
            if other_K.any():
                row = int(some_K[other_K.argmax()]) + 1
                problem = "holds other ids than these options and this data give"
                raise DataError(name, problem, row=row, column=column, hint=_WRITE_ANEW)

    def write(self, bags: LookupBags, advance: Callable[[int], None]) -> None:
        """Write the file beside its name, then give it the name; ``advance`` is told the bytes."""
        with written_beside(self.path) as file:
            with zipfile.ZipFile(file, "w") as archive:
                for feature in range(len(self._features)):
                    self._write_member(archive, feature, bags, advance)
            self.part.files["sparse"].check_unchanged()

    def _write_member(
        self, archive: zipfile.ZipFile, feature: int, bags: LookupBags, advance: Callable[[int], None]
    ) -> None:
        hotness = self._features[feature].hotness
        step = max(1, _CHUNK_BYTES // (4 * hotness))
        chunks = [slice(start, start + step) for start in range(0, self.part.rows, step)]
        with archive.open(f"{feature}.npy", "w", force_zip64=True) as member:  # as np.savez opens it
            member.write(npy_header(np.dtype("<i4"), (self.part.rows, hotness)))
            for bags_BL in _ahead(lambda chunk: self._bags(bags, feature, chunk), chunks):
                member.write(bags_BL.data)
                advance(bags_BL.nbytes)

    def _bags(self, bags: LookupBags, feature: int, rows: slice | NDArray[np.int64]) -> NDArray[np.int32]:
        ids_B = self._stored_ids(rows, feature)
        if self._fold:
            ids_B = ids_B % self._features[feature].rows
        bags_BL = np.empty((len(ids_B), self._features[feature].hotness), dtype="<i4")
        bags.fill(feature, ids_B, bags_BL)
        return bags_BL


def _anew(error: DataError) -> DataError:
    return DataError(error.path, error.problem, hint="set overwrite to true to write it anew")


def _ahead(make: Callable[[T], R], items: Sequence[T]) -> Iterator[R]:
    """``make`` of every item, in order, made by threads a few items ahead."""
    with ThreadPoolExecutor(_THREADS) as pool:
        waiting: deque[Future[R]] = deque()
        for item in items:
            waiting.append(pool.submit(make, item))
            if len(waiting) > 2 * _THREADS:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def _with_rows(schema: Schema, rows: Sequence[int] | None) -> Schema:
    """A schema with other table sizes, one for each or one for all."""
    if rows is None:
        return schema
    if len(rows) not in (1, len(schema.sparse)):
        raise ConfigError.at("rows", f"has {len(rows)} entries, the data has {len(schema.sparse)} sparse features")
    sizes = tuple(rows) * len(schema.sparse) if len(rows) == 1 else rows
    return replace(schema, sparse=tuple(replace(f, rows=n) for f, n in zip(schema.sparse, sizes, strict=True)))


class _Record:
    """What dataset.json says of multi-hot files: nothing where there is none or where they lie in another folder.

    Args:
        folder: of the data set; manifest: its dataset.json, if there is one.
        kept: whether the files are entered.
    """

    def __init__(self, folder: Path, manifest: Manifest | None, *, kept: bool) -> None:
        self._folder = folder
        self._kept = kept
        self.manifest = manifest

    @classmethod
    def of(cls, source: Path, output: Path) -> _Record:
        """Read dataset.json, and drop from it the multi-hot files that are gone."""
        record = cls(source, read_manifest(str(source)), kept=output.resolve() == source.resolve())
        parts = record.manifest.parts if record.manifest is not None else ()
        record.drop(
            {part.name for part in parts if (file := part.files.get("multi_hot")) and not (source / file.name).exists()}
        )
        return record

    @property
    def own_names(self) -> set[str]:
        """The files in the folder of the output that are listed."""
        return listed_names(self.manifest) if self.manifest is not None and self._kept else set()

    def drop(self, names: set[str]) -> None:
        """Forget the multi-hot files of these parts."""
        if self.manifest is not None and self._kept:
            parts = tuple(_with_file(part, None) if part.name in names else part for part in self.manifest.parts)
            self._write({"parts": parts})

    def enter(self, file: _PartFile, schema: Schema) -> None:
        """Enter a part's file and the hotness of its arrays; a file that is listed already is not read again."""
        if self.manifest is None or not self._kept:
            return
        parts = list(self.manifest.parts)
        at = [part.name for part in parts].index(file.part.name)
        known = parts[at].files.get("multi_hot")
        if known is None or known.bytes != file.path.stat().st_size:
            parts[at] = _with_file(parts[at], file_record(file.path, self._folder))
        hotness = [feature.hotness for feature in schema.sparse]
        sparse = tuple(f.model_copy(update={"hotness": k}) for f, k in zip(self.manifest.sparse, hotness, strict=True))
        self._write({"parts": tuple(parts), "sparse": sparse})

    def _write(self, update: dict[str, object]) -> None:
        assert self.manifest is not None
        changed = self.manifest.model_copy(update=update)
        if changed != self.manifest:
            write_manifest(self._folder, changed)
            self.manifest = changed


def _with_file(part: PartRecord, file: FileRecord | None) -> PartRecord:
    files = {kind: known for kind, known in part.files.items() if kind != "multi_hot"}
    return part.model_copy(update={"files": files if file is None else {**files, "multi_hot": file}})


def _noted_names(output: Path) -> set[str]:
    """The files in a folder that this command has begun to write at some time."""
    path = output / _WRITTEN
    return set(os.fsdecode(path.read_bytes()).splitlines()) if path.exists() else set()


def _note_names(output: Path, names: set[str]) -> None:
    multi_hot = sorted(name for name in names if name.endswith(SUFFIXES["multi_hot"]))
    with written_beside(output / _WRITTEN) as file:
        file.write(os.fsencode("".join(f"{name}\n" for name in multi_hot)))


def _check_room(output: Path, missing: Sequence[_PartFile]) -> None:
    """Estimate before the first byte: the new files, less the old ones, each of which goes when its new one is whole."""
    old = sum(file.path.stat().st_size for file in missing if file.path.exists())
    beside = max((file.array_bytes for file in missing), default=0) if old else 0
    need = sum(file.array_bytes for file in missing) - old + beside
    free = shutil.disk_usage(output).free
    if free < need:
        problem = f"has {free / 2**30:.1f} GiB free, the multi-hot files need {need / 2**30:.1f} GiB"
        raise DataError(str(output), problem, hint="make room, or set output to a folder on another disk")
