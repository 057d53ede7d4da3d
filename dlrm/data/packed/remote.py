"""Packed data sets that lie elsewhere: fetched once per host, through iopath, and then read like local ones.

A remote data set needs a dataset.json, which says what there is. It is fetched on every run, and the *cached folder* is
named after the URL and after its bytes: another manifest is another folder, so nothing of an older version is ever mixed
in. A file is written beside, its size and SHA-256 are compared with the manifest, and only then it gets its name; one that
has its name and its size is not fetched again. The ranks of a host take turns with a lock on each file: one fetches it, the
others find it there.
"""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import os
import shutil
import threading
import urllib.error
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from dlrm.data.packed.manifest import MANIFEST_NAME, FileKind, FileRecord, parse_manifest
from dlrm.errors import DataError
from dlrm.files import alone, written_beside
from dlrm.remote.paths import SchemeError, reading_manager, scheme_of

_BLOCK_BYTES = 1 << 22
_MAX_MANIFEST_BYTES = 1 << 26
_FILES_AT_ONCE = 4  # a single connection rarely fills the line
_KEY_LENGTH = 16
_UNFINISHED = ".unfinished"


def is_remote(path: str) -> bool:
    """Whether ``path`` is a URL rather than a folder."""
    return scheme_of(path) is not None


def fetch_folder(url: str, cache_dir: str, kinds: Sequence[FileKind], *, vocabularies: bool = False) -> str:
    """Bring the files of a remote data set that are not there yet into the cache.

    Args:
        url: of the folder that holds dataset.json.
        cache_dir: where this host keeps remote data sets; ``~`` is the home directory.
        kinds: the files of each part that are needed.
        vocabularies: whether those are.

    Returns:
        The cached folder.

    Raises:
        DataError: nobody knows the URL's scheme; an object is missing or not what the manifest says; no connection; the
            disk is full or cannot be written.
    """
    url = url.rstrip("/")
    store = _Store(url)
    text = store.read_small(f"{url}/{MANIFEST_NAME}")
    manifest = parse_manifest(text, f"{url}/{MANIFEST_NAME}")
    folder = os.path.join(os.path.expanduser(cache_dir), f"{_key(url.encode())}-{_key(text)}")
    records = [file for part in manifest.parts for kind, file in part.files.items() if kind in kinds]
    records += manifest.vocabularies.values() if vocabularies else ()
    files = [_File(f"{url}/{record.name}", folder, record) for record in records]
    try:
        os.makedirs(os.path.join(folder, _UNFINISHED), exist_ok=True)
        _check_free_space(folder, files)
        _fetch_all(store, files)
        _write_manifest(folder, text)
    except OSError as error:
        problem = f"cannot be written ({error.strerror})"
        raise DataError(folder, problem, hint="make room, or set data.cache_dir to another disk") from None
    return folder


def _key(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:_KEY_LENGTH]


@dataclass(frozen=True)
class _File:
    """A file of the data set: where it comes from and where it goes."""

    url: str
    folder: str
    record: FileRecord

    @property
    def target(self) -> str:
        return os.path.join(self.folder, self.record.name)

    @property
    def beside(self) -> str:
        """Where it is written until it is whole."""
        return os.path.join(self.folder, _UNFINISHED, _key(self.record.name.encode()))

    @property
    def is_there(self) -> bool:
        return _size(self.target) == self.record.bytes


def _size(path: str) -> int:
    """Bytes of a file; -1 where there is none."""
    try:
        return os.stat(path).st_size
    except FileNotFoundError:
        return -1


def _check_free_space(folder: str, files: Sequence[_File]) -> None:
    to_come = sum(file.record.bytes - max(0, _size(file.beside)) for file in files if not file.is_there)
    free = shutil.disk_usage(folder).free
    if to_come > free:
        problem = f"has too little room: {to_come:,} bytes are to come, {free:,} are free"
        raise DataError(folder, problem, hint="make room, or set data.cache_dir to another disk")


def _fetch_all(store: _Store, files: Sequence[_File]) -> None:
    """Fetch a few files at a time; what fails ends the others, and the first in order is raised."""
    stop = threading.Event()
    with ThreadPoolExecutor(_FILES_AT_ONCE, thread_name_prefix="fetch") as threads:
        pending = [threads.submit(_fetch, store, file, stop) for file in files]
        try:
            wait(pending, return_when=FIRST_EXCEPTION)
        finally:
            stop.set()
            threads.shutdown(cancel_futures=True)
    for finished in pending:
        if not finished.cancelled():
            finished.result()


def _fetch(store: _Store, file: _File, stop: threading.Event) -> None:
    if file.is_there:
        return
    target, beside = Path(file.target), Path(file.beside)
    target.parent.mkdir(parents=True, exist_ok=True)
    with alone(Path(f"{beside}.lock")):
        if file.is_there:  # another rank of this host was faster
            return
        with contextlib.suppress(_Stopped), written_beside(target, beside=beside) as out:
            _download(store, file, out, stop)


class _Stopped(Exception):  # noqa: N818  # no error of this file
    """Another file has failed."""


def _download(store: _Store, file: _File, out: BinaryIO, stop: threading.Event) -> None:
    """Write the file and check it."""
    digest, count = hashlib.sha256(), 0
    for block in store.blocks(file.url):
        count += len(block)
        if stop.is_set():
            raise _Stopped
        if count > file.record.bytes:
            break
        digest.update(block)
        out.write(block)
    hint = "upload the data set again"
    if count != file.record.bytes:
        found = f"more than {file.record.bytes:,}" if count > file.record.bytes else f"{count:,}"
        raise DataError(file.url, f"has {found} bytes, dataset.json says {file.record.bytes:,}", hint=hint)
    if digest.hexdigest() != file.record.sha256:
        problem = f"has SHA-256 {digest.hexdigest()[:12]}.., dataset.json says {file.record.sha256[:12]}.."
        raise DataError(file.url, problem, hint=hint)


def _write_manifest(folder: str, text: bytes) -> None:
    """Last, so that a folder with a manifest is whole."""
    beside = Path(folder, _UNFINISHED, MANIFEST_NAME)
    with alone(Path(f"{beside}.lock")), written_beside(Path(folder, MANIFEST_NAME), beside=beside) as out:
        out.write(text)


class _Store:
    """Objects behind URLs, read through iopath's handlers.

    Raises:
        DataError: there is no handler for the URL.
    """

    def __init__(self, url: str) -> None:
        try:
            self._manager = reading_manager(url)
        except SchemeError as error:
            raise DataError(url, error.problem, hint=error.hint) from None
        except OSError as error:
            raise DataError(url, f"cannot be read ({_reason(error)})", hint="check the URL and the network") from None

    def blocks(self, url: str) -> Iterator[bytes]:
        """The bytes of an object, a block at a time.

        Raises:
            DataError: it is missing, or cannot be reached.
        """
        try:
            with self._manager.open(url, "rb") as stream:
                while block := stream.read(_BLOCK_BYTES):
                    yield block
        except urllib.error.HTTPError as error:
            problem = "is missing" if error.code in (404, 410) else "cannot be read"
            problem = f"{problem} (HTTP {error.code} {error.reason})"
            raise DataError(url, problem, hint="check the URL and what was uploaded") from None
        except FileNotFoundError:
            raise DataError(url, "is missing", hint="check the URL and what was uploaded") from None
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise DataError(url, f"cannot be read ({_reason(error)})", hint="check the URL and the network") from None

    def read_small(self, url: str) -> bytes:
        """All bytes of a small object."""
        content = b""
        for block in self.blocks(url):
            content += block
            if len(content) > _MAX_MANIFEST_BYTES:
                problem = f"is no manifest: it is larger than {_MAX_MANIFEST_BYTES:,} bytes"
                raise DataError(url, problem, hint="check the URL")
        return content


def _reason(error: Exception) -> str:
    """What went wrong, in one line; urllib wraps the error of the connection."""
    cause = getattr(error, "reason", error)
    return " ".join(str(getattr(cause, "strerror", None) or cause or type(error).__name__).split())
