"""What this project asks of a store of objects besides what iopath's PathHandler offers, and what it answers with."""

from __future__ import annotations

import errno
import io
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Protocol, Self

from iopath.common.file_io import PathHandler


class StoreError(OSError):
    """The store cannot be asked: no answer, no permission, no bucket. Says nothing about what it holds.

    ``strerror`` is the problem and its hint, ``filename`` the URL; ``may_pass`` whether asking again later may help.
    """

    def __init__(self, problem: str, url: str, *, may_pass: bool = False) -> None:
        super().__init__(errno.EIO, problem, url)
        self.may_pass = may_pass


def missing(url: str) -> FileNotFoundError:
    """There is no such object."""
    return FileNotFoundError(errno.ENOENT, "there is no such object", url)


def taken(url: str) -> FileExistsError:
    """An object is not written over."""
    return FileExistsError(errno.EEXIST, "is there already", url)


@dataclass(frozen=True)
class Entry:
    """An object.

    Attributes:
        url: by which it is found; bytes: its size; modified_s: seconds since the epoch, by the store's clock, if it says.
    """

    url: str
    bytes: int
    modified_s: float | None


class Range(io.RawIOBase):
    """A stream of an object's bytes.

    Attributes:
        size: how many there are.
    """

    size: int

    def readable(self) -> bool:
        """As it is."""
        return True


class NewObject(Protocol):
    """An object being written; it is there, whole, when its block has ended without an error, and never before."""

    def write(self, data: bytes | memoryview) -> object:
        """Append ``data``, all of it."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


class ObjectHandler(PathHandler, ABC):  # type: ignore[misc]  # iopath is untyped
    """A handler of iopath's for URLs of one scheme, with what storage of checkpoints needs besides.

    A *folder* is what the URLs of objects have in common up to a ``/``; it is there as long as there is one. Every
    operation raises OSError: FileNotFoundError, FileExistsError, or StoreError for all that is the store's.
    """

    _strict_kwargs_check = False

    def __init__(self, scheme: str) -> None:
        super().__init__()
        self._scheme = scheme

    def _get_supported_prefixes(self) -> list[str]:
        return [f"{self._scheme}://"]

    def _open(self, path: str, mode: str = "rb", buffering: int = -1, **options: Any) -> Range | NewObject:
        """Open an object.

        Args:
            path: its URL.
            mode: ``rb``, or ``xb`` for a new one.
            buffering: is not heeded.
            options: ``start`` and ``size`` limit what is read to a range; a range beyond the end is empty there.
        """
        if mode == "rb":
            return self.reader(path, options.get("start", 0), options.get("size"))
        if mode == "xb":
            return self.new(path)
        raise ValueError(f"mode is {mode}, not rb or xb")

    @abstractmethod
    def reader(self, url: str, start: int, size: int | None) -> Range:
        """A stream of ``size`` > 0 bytes (all, if None) of an object from ``start`` on; fewer where it ends before."""

    @abstractmethod
    def new(self, url: str) -> NewObject:
        """Begin a new object; FileExistsError now or at its end if there is one."""

    @abstractmethod
    def below(self, folder: str) -> Iterator[Entry]:
        """Every object of a folder and of those in it."""

    @abstractmethod
    def stat(self, url: str) -> Entry:
        """What is known of an object; FileNotFoundError if there is none."""

    @abstractmethod
    def clear_unfinished(self, folder: str) -> None:
        """Drop what was begun below a folder and not finished, if the store keeps such things."""
