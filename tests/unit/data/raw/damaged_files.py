"""Raw files that cannot be read as they should: shared by the tests of both readers of raw files."""

import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from dlrm.errors import DataError


def after_each_flipped_bit(
    whole: bytes, path: Path, read: Callable[[str], Iterable[bytes]], *, step: int
) -> Iterator[bytes]:
    """What reading gives, the text or the error, when one bit of every ``step``-th byte is another; the magic stays."""
    for position in range(2, len(whole), step):
        flipped = bytearray(whole)
        flipped[position] ^= 4
        path.write_bytes(flipped)
        try:
            yield b"".join(read(str(path)))
        except DataError as error:
            yield str(error).encode()


def make_unreadable(path: str, monkeypatch) -> None:
    """Take away the permission to read a file."""
    if os.geteuid() == 0:  # root may read everything

        def refuse(*arguments, **keywords):
            raise PermissionError(13, "Permission denied")

        monkeypatch.setattr("builtins.open", refuse)
    else:
        os.chmod(path, 0)
