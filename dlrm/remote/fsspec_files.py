"""Schemes that fsspec knows, for iopath, which has no handler of its own for them.

Timeouts, retries and credentials are those of fsspec's implementation of the scheme (gcsfs, adlfs, sshfs, ..) and are set
where it takes them: its environment variables and fsspec's configuration.
"""

from __future__ import annotations

import contextlib
import errno
import io
import os
from collections.abc import Iterator
from datetime import datetime
from types import TracebackType
from typing import Any, Self

import fsspec

from dlrm.remote.objects import Entry, NewObject, ObjectHandler, Range, StoreError, missing, taken


class FsspecHandler(ObjectHandler):
    """Objects of the store that a URL is in.

    Raises:
        ImportError: the package that fsspec needs for the scheme is not installed; the message names it.
        ValueError: fsspec does not know the scheme.
        StoreError: it cannot be used as it is configured.
    """

    def __init__(self, url: str) -> None:
        scheme = url.partition("://")[0]
        super().__init__(scheme)
        fsspec.get_filesystem_class(scheme)
        with fsspec_errors(url):
            # Listings that it remembers would hide what other ranks write.
            options = {"use_listings_cache": False, "skip_instance_cache": True}
            self._files, _ = fsspec.core.url_to_fs(url, **options)

    def reader(self, url: str, start: int, size: int | None) -> Range:
        """A range, fetched as a whole; all of an object as a stream."""
        total = self.stat(url).bytes
        end = total if size is None else min(total, start + size)
        with fsspec_errors(url):
            if (start, end) == (0, total):
                return _Stream(self._files.open(self._path(url), "rb"), url, total)
            data = self._files.cat_file(self._path(url), start=start, end=end) if start < end else b""
        return _Stream(io.BytesIO(data), url, len(data))

    def new(self, url: str) -> NewObject:
        """A new object; another that comes to be while it is written is replaced."""
        with fsspec_errors(url):
            if self._files.exists(self._path(url)):
                raise taken(url)
            self._files.makedirs(self._files._parent(self._path(url)), exist_ok=True)
            return _NewFile(self._files, self._path(url), url)

    def below(self, folder: str) -> Iterator[Entry]:
        """Every file below."""
        top = self._path(folder).rstrip("/")
        with fsspec_errors(folder):
            found = self._files.find(top, detail=True)
        for details in found.values():
            yield self._entry(f"{folder}{details['name'][len(top) :]}", details)

    def stat(self, url: str) -> Entry:
        """Size and, where it is said, age."""
        with fsspec_errors(url):
            details = self._files.info(self._path(url))
        if details["type"] != "file":
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), url)
        return self._entry(url, details)

    def clear_unfinished(self, folder: str) -> None:
        """Fsspec has no operation for it."""

    def _path(self, url: str) -> str:
        return str(self._files._strip_protocol(url))

    def _entry(self, url: str, details: dict[str, Any]) -> Entry:
        # The field's name is not agreed on.
        changed = [details[name] for name in ("mtime", "LastModified", "last_modified", "updated") if name in details]
        when = changed[0] if changed else None
        modified_s = when.timestamp() if isinstance(when, datetime) else when if isinstance(when, int | float) else None
        return Entry(url, int(details["size"] or 0), modified_s)

    def _ls(self, path: str, **_: Any) -> list[str]:
        folder = self._path(path)
        with fsspec_errors(path):
            names = [str(name).rstrip("/") for name in self._files.ls(folder, detail=False)]
        found = {name.rpartition("/")[2] for name in names if name != folder.rstrip("/")}
        if not found and not self._isdir(path):
            raise missing(path)
        return sorted(found)

    def _isdir(self, path: str, **_: Any) -> bool:
        with fsspec_errors(path):
            return bool(self._files.isdir(self._path(path)))

    def _isfile(self, path: str, **_: Any) -> bool:
        with fsspec_errors(path):
            return bool(self._files.isfile(self._path(path)))

    def _exists(self, path: str, **_: Any) -> bool:
        with fsspec_errors(path):
            return bool(self._files.exists(self._path(path)))

    def _rm(self, path: str, **_: Any) -> None:
        with fsspec_errors(path), contextlib.suppress(FileNotFoundError):
            if self._files.isdir(self._path(path)):
                self._files.rm(self._path(path), recursive=True)
            else:
                self._files.rm_file(self._path(path))

    def _copy(self, src_path: str, dst_path: str, overwrite: bool = False, **_: Any) -> bool:
        if not overwrite:
            raise ValueError("does not look at what is there: overwrite has to be set")
        with fsspec_errors(src_path):
            self._files.makedirs(self._files._parent(self._path(dst_path)), exist_ok=True)
            self._files.cp_file(self._path(src_path), self._path(dst_path))
        return True


class _Stream(Range):
    """A file of fsspec's, with errors in words."""

    def __init__(self, file: Any, url: str, size: int) -> None:
        super().__init__()
        self._file, self._url, self.size = file, url, size

    def readinto(self, buffer: Any) -> int:
        with fsspec_errors(self._url):
            data = self._file.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def close(self) -> None:
        self._file.close()
        super().close()


class _NewFile:
    """A file of fsspec's that is dropped, and not closed as if it were whole, when writing it fails."""

    def __init__(self, files: Any, path: str, url: str) -> None:
        self._files, self._path, self._url = files, path, url
        self._file = files.open(path, "wb", autocommit=False)

    def write(self, data: bytes | memoryview) -> None:
        with fsspec_errors(self._url):
            self._file.write(data)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None:
            with contextlib.suppress(OSError), fsspec_errors(self._url):
                self._file.discard()
                if self._files.exists(self._path):  # not every implementation keeps it apart until it is committed
                    self._files.rm_file(self._path)
            return
        with fsspec_errors(self._url):
            self._file.close()
            self._file.commit()


@contextlib.contextmanager
def fsspec_errors(url: str) -> Iterator[None]:
    """Raise what goes wrong with the store as FileNotFoundError, FileExistsError or StoreError."""
    try:
        yield
    except (FileNotFoundError, FileExistsError, IsADirectoryError, StoreError):
        raise
    except Exception as error:  # each implementation has errors of its own, without a common root
        words = " ".join(str(getattr(error, "strerror", None) or error).split()) or type(error).__name__
        problem = f"the store cannot be used ({type(error).__name__}: {words})"
        raise StoreError(problem, url, may_pass=not isinstance(error, PermissionError | ImportError)) from error
