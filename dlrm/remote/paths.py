"""URLs: which of them are files of this host, and what reads and writes the others, through iopath."""

from __future__ import annotations

import importlib.util
import re
import urllib.parse
import urllib.request
from pathlib import Path
from typing import IO, Any

from iopath.common.file_io import HTTPURLHandler, PathManager

from dlrm.remote.objects import ObjectHandler

_URL = re.compile(r"^([A-Za-z][A-Za-z0-9+.-]*)://")
_LOCAL_SCHEMES = ("file", "local")
HTTP_TIMEOUT_S = 60.0


class SchemeError(ValueError):
    """A URL that nothing here can use.

    Attributes:
        problem: why; hint: what the user can do.
    """

    def __init__(self, problem: str, hint: str) -> None:
        super().__init__(f"{problem}; {hint}")
        self.problem, self.hint = problem, hint


def scheme_of(path: str) -> str | None:
    """The scheme of a URL; None for a path."""
    match = _URL.match(path)
    return match[1] if match else None


def is_remote(path: str) -> bool:
    """Whether ``path`` is a URL, and not one of a file of this host (``file:///..``)."""
    return scheme_of(path) not in (None, *_LOCAL_SCHEMES)


def local_path(path: str | Path) -> str:
    """A path of this host as such, whether it is given so or as ``file:///..``.

    Raises:
        SchemeError: ``file://`` and another host.
    """
    text = str(path)
    if scheme_of(text) not in _LOCAL_SCHEMES:
        return text
    host, _, rest = _URL.sub("", text).partition("/")
    if host not in ("", "localhost"):
        raise SchemeError(f"names the host {host}", "write file:///folder, with three slashes")
    return f"/{urllib.parse.unquote(rest)}"


def object_handler(url: str) -> ObjectHandler:
    """What reads and writes objects behind URLs of one scheme.

    Raises:
        SchemeError: there is nothing for the scheme, or its package is missing.
    """
    scheme = scheme_of(url)
    assert scheme is not None
    if scheme == "s3":
        if importlib.util.find_spec("boto3") is None:
            raise SchemeError("needs the package boto3, which is not installed", "pip install boto3")
        from dlrm.remote.s3 import S3Handler

        return S3Handler()
    if scheme in ("http", "https"):
        raise SchemeError("cannot be listed or written", "use a folder, s3:// or another scheme that fsspec knows")
    from dlrm.remote.fsspec_files import FsspecHandler

    try:
        return FsspecHandler(url)
    except ImportError as error:
        raise SchemeError(f"needs a package that is not installed ({error})", "install it with pip") from error
    except ValueError as error:
        known = "there are http://, https://, s3:// and what fsspec knows (gs://, abfs://, sftp://, ..)"
        raise SchemeError(f"has a scheme that cannot be read; {known}", "use one of them, or a folder") from error


def reading_manager(url: str) -> PathManager:
    """A manager of iopath's with what reads ``url``.

    Raises:
        SchemeError: nothing does.
    """
    manager = PathManager()
    manager.set_logging(False)
    handler = _HttpHandler() if scheme_of(url) in ("http", "https") else object_handler(url)
    manager.register_handler(handler)
    return manager


class _HttpHandler(HTTPURLHandler):  # type: ignore[misc]  # iopath is untyped
    """iopath's handler for http:// and https://, but streaming: its own keeps a second copy of every file."""

    def _get_supported_prefixes(self) -> list[str]:
        return ["http://", "https://"]

    def _open(self, path: str, mode: str = "rb", buffering: int = -1, **_: Any) -> IO[bytes]:
        quoted = urllib.parse.quote(path, safe="%/:?&=@#+,;~[]!$'()*")
        return urllib.request.urlopen(quoted, timeout=HTTP_TIMEOUT_S)  # type: ignore[no-any-return]
