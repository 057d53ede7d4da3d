"""Loops compiled by numba, whose machine code is kept on disk where that can be done and does without where it cannot.

numba's own ``cache=True`` refuses a function, and so the import of its module, where no place for the cache can be written,
and lets every fault of the cache's files through to the caller: a file that a full disk cut, or a disk that is full. Here
the cache is a help and never a condition. Places, in this order: ``NUMBA_CACHE_DIR``, ``__pycache__`` beside the code, the
user's cache folder; and, to read only, ``__pycache__`` as an image's build left it. Without any, each process compiles
anew, which takes seconds.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any, TypeVar, cast

from numba import njit
from numba.core import caching

_LOG = logging.getLogger(__name__)
_Loop = TypeVar("_Loop", bound=Callable[..., Any])


class _ReadOnlyLocator(caching.InTreeCacheLocator):  # type: ignore[misc]
    """``__pycache__`` beside the code, whether or not it can be written."""

    def ensure_cache_path(self) -> None:
        """Take the folder as it is."""


class _Places(caching.CompileResultCacheImpl):  # type: ignore[misc]
    _locator_classes = (
        caching.UserProvidedCacheLocator,
        caching.InTreeCacheLocator,
        caching.UserWideCacheLocator,
        _ReadOnlyLocator,
    )


class LenientCache(caching.FunctionCache):  # type: ignore[misc]
    """numba's cache of a function that gives up, with a line in the log, instead of raising."""

    _impl_class = _Places

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        """The machine code for a signature; None where there is none that can be read."""
        try:
            return super().load_overload(sig, target_context)
        except Exception as error:  # what a torn file makes of unpickling can be anything
            _LOG.warning("%s: cached machine code is not readable (%r); compiled anew", self.cache_path, error)
        try:
            self.flush()
        except OSError:
            self.disable()
        return None

    def save_overload(self, sig: Any, data: Any) -> None:
        """Keep the machine code for a signature if it can be written."""
        try:
            super().save_overload(sig, data)
        except OSError as error:
            _LOG.info("%s: compiled machine code is not kept (%s); each process compiles anew", self.cache_path, error)
            self.disable()

    @property
    def writable(self) -> bool:
        """Whether what is compiled is kept for the next process."""
        return not isinstance(self._impl.locator, _ReadOnlyLocator)


def _compile(loop: _Loop, **options: Any) -> _Loop:
    dispatcher = njit(nogil=True, **options)(loop)
    dispatcher._cache = LenientCache(loop)  # what cache=True does; tests/unit/test_compiled.py sees to it
    return cast(_Loop, dispatcher)


def compiled(loop: _Loop) -> _Loop:
    """Compile a function by numba at its first call, without the interpreter's lock."""
    return _compile(loop)


def inlined(loop: _Loop) -> _Loop:
    """The same for a function that is part of each compiled function that calls it."""
    return _compile(loop, inline="always")


def cache_place() -> tuple[str, bool]:
    """Where compiled machine code is looked for, and whether it can be written there."""
    cache = LenientCache(cache_place)
    return str(cache.cache_path), cache.writable
