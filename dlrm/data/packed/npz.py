"""Arrays inside an .npz archive, mapped where they lie instead of being unpacked.

``np.savez`` stores its arrays as they are (method 0 of the ZIP format), one *member* ``<key>.npy`` each, so every one is a
range of the archive's bytes. The archive's *directory* at its end (PKWARE APPNOTE.TXT 6.3, sections 4.3.12 to 4.3.16) and
the header in front of each member have to say the same, members may not overlap, and whatever would have to be unpacked is
refused: nothing here ever holds more than the directory in memory.
"""

from __future__ import annotations

import struct
import zlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

from numpy.typing import NDArray

from dlrm.data.packed.arrays import PREPARE_AGAIN, MappedFile, map_array
from dlrm.errors import DataError

_END = struct.Struct("<4s4H2IH")  # signature, disks (2), entries (2), directory size and offset, comment length
_END64_LOCATOR = struct.Struct("<4sIQI")  # signature, disk, offset of the record, disks
_END64 = struct.Struct("<4sQ2H2I4Q")  # signature, size, versions (2), disks (2), entries (2), directory size, offset
_ENTRY = struct.Struct("<4s6H3I5H2I")  # of the directory
_LOCAL = struct.Struct("<4s5H3I2H")  # in front of a member
_ZIP64_EXTRA = 1
_ENCRYPTED, _STRONGLY_ENCRYPTED = 1 << 0, 1 << 6
_SEE_ZIP64 = 0xFFFF_FFFF
_MAX_MEMBERS = 4096
_CRC_BLOCK_BYTES = 1 << 24


@dataclass(frozen=True)
class Member:
    """A stored member: its bytes are ``start`` .. ``stop - 1`` of the archive; crc32 is what they should sum to."""

    name: str
    start: int
    stop: int
    crc32: int


def map_members(file: MappedFile, types: Sequence[str], *, count: int | None = None) -> tuple[NDArray[Any], ...]:
    """The arrays "0", "1", ... of an archive, mapped where they lie.

    Args:
        file: the archive.
        types: what the arrays' type may be, as NumPy writes it (``<i4``).
        count: how many arrays there have to be; any number if left out.

    Returns:
        Read-only arrays (rows, columns), possibly unaligned; see :func:`~dlrm.data.packed.arrays.map_array`.

    Raises:
        DataError: no archive of stored .npy files with just these names, or a damaged one; which member it is.
    """
    members = {member.name: member for member in list_members(file)}
    expected = [f"{i}.npy" for i in range(len(members) if count is None else count)]
    for name in expected:
        if name not in members:
            raise DataError(file.path, f"has no member {name}; it holds {_listed(list(members))}", hint=PREPARE_AGAIN)
    extra = [name for name in members if name not in set(expected)]
    if extra:
        problem = f"holds {_listed(extra)} besides the {len(expected)} members 0.npy .. {expected[-1]}"
        raise DataError(file.path, problem, hint=PREPARE_AGAIN)
    chosen = [members[name] for name in expected]
    return tuple(
        map_array(file, types, start=member.start, stop=member.stop, name=f"{file.path}:{member.name}")
        for member in chosen
    )


def list_members(file: MappedFile) -> tuple[Member, ...]:
    """The members in the order of the archive's directory.

    Raises:
        DataError: not an archive, damaged, compressed, encrypted, members that overlap or are there twice.
    """
    return _Archive(file).members()


def verify_checksums(file: MappedFile) -> None:
    """Read every member and compare it with its CRC-32.

    Raises:
        DataError: the first member that is not what was written.
    """
    for member in list_members(file):
        crc = 0
        for start in range(member.start, member.stop, _CRC_BLOCK_BYTES):
            crc = zlib.crc32(file.view[start : min(start + _CRC_BLOCK_BYTES, member.stop)], crc)
        if crc != member.crc32:
            problem = f"has CRC-32 {crc:08x}, the archive says {member.crc32:08x}"
            raise DataError(f"{file.path}:{member.name}", problem, hint=PREPARE_AGAIN)


class _Archive:
    """The directory of a ZIP file, read strictly: what NumPy writes and nothing else."""

    def __init__(self, file: MappedFile) -> None:
        self._file = file
        self._view = file.view

    def members(self) -> tuple[Member, ...]:
        entries, begin, end = self._find_directory()
        members: list[Member] = []
        at = begin
        for _ in range(entries):
            member, at = self._read_entry(at, begin, end)
            members.append(member)
        if at != end:
            self._fail("has a directory of another size than it says")
        for name, times in Counter(member.name for member in members).items():
            if times > 1:
                self._fail("is there twice", name)
        self._check_overlaps(members, begin)
        return tuple(members)

    def _find_directory(self) -> tuple[int, int, int]:
        """Number of entries, and where the directory begins and ends."""
        if not self._file.size:
            self._fail("is empty")
        at = self._file.size - _END.size  # NumPy writes no comment
        if at < 0 or bytes(self._view[:2]) != b"PK" or bytes(self._view[at : at + 4]) != b"PK\5\6":
            self._fail("is no .npz archive, or truncated (it does not end like one)")
        _, _, _, _, entries, size, begin, _ = _END.unpack_from(self._view, at)
        end = at
        locator = at - _END64_LOCATOR.size
        if locator >= 0 and bytes(self._view[locator : locator + 4]) == b"PK\6\7":
            end = _END64_LOCATOR.unpack_from(self._view, locator)[2]
            if end != locator - _END64.size or bytes(self._view[end : end + 4]) != b"PK\6\6":
                self._fail("has a damaged directory")
            entries, size, begin = _END64.unpack_from(self._view, end)[7:]
        if begin + size != end:
            self._fail("has a damaged directory, or is truncated")
        if not 0 < entries <= _MAX_MEMBERS:
            self._fail(f"holds {entries:,} members, where 1 to {_MAX_MEMBERS:,} make sense")
        return entries, begin, end

    def _read_entry(self, at: int, begin: int, end: int) -> tuple[Member, int]:
        """A member, and where the next entry begins."""
        if at + _ENTRY.size > end:
            self._fail("has a damaged directory")
        (signature, _, _, flags, method, _, _, crc, packed, size, name_length, extra_length, comment_length, _, _, _,
         local) = _ENTRY.unpack_from(self._view, at)  # fmt: skip
        name_end = at + _ENTRY.size + name_length
        following = name_end + extra_length + comment_length
        if signature != b"PK\1\2" or following > end:
            self._fail("has a damaged directory")
        name = bytes(self._view[at + _ENTRY.size : name_end]).decode("utf-8", "backslashreplace")
        if flags & (_ENCRYPTED | _STRONGLY_ENCRYPTED):
            self._fail("is encrypted", name, "store it without a password")
        if method != 0:
            problem = f"is compressed (method {method}), so it cannot be read where it lies"
            self._fail(problem, name, "write it with np.savez instead of np.savez_compressed")
        extra = bytes(self._view[name_end : name_end + extra_length])
        size, packed, local = self._with_zip64(extra, [size, packed, local], name)
        if packed != size:
            self._fail("has two sizes although it is not compressed", name)
        start = self._check_local(name, flags, local, begin)
        if start + size > begin:
            self._fail(f"reaches beyond the archive's members ({size:,} bytes)", name)
        return Member(name, start, start + size, crc), following

    def _with_zip64(self, extra: bytes, values: list[int], name: str) -> list[int]:
        """Values of 32 bits, each replaced by one of 64 bits where it says so (APPNOTE, section 4.5.3)."""
        missing = [i for i, value in enumerate(values) if value == _SEE_ZIP64]
        at = 0
        while missing and at + 4 <= len(extra):
            tag, length = struct.unpack_from("<2H", extra, at)
            if tag == _ZIP64_EXTRA and length >= 8 * len(missing) and at + 4 + length <= len(extra):
                for i, value in zip(missing, struct.unpack_from(f"<{len(missing)}Q", extra, at + 4), strict=True):
                    values[i] = value
                return values
            at += 4 + length
        if missing:
            self._fail("does not say how long it is", name)
        return values

    def _check_local(self, name: str, flags: int, local: int, begin: int) -> int:
        """Where the member's bytes begin, once the header in front of them agrees with the directory."""
        if local + _LOCAL.size > begin or bytes(self._view[local : local + 4]) != b"PK\3\4":
            self._fail("is not where the directory says", name)
        _, _, local_flags, method, _, _, _, _, _, name_length, extra_length = _LOCAL.unpack_from(self._view, local)
        name_end = local + _LOCAL.size + name_length
        local_name = bytes(self._view[local + _LOCAL.size : name_end]).decode("utf-8", "backslashreplace")
        if (local_name, local_flags, method) != (name, flags, 0) or name_end + extra_length > begin:
            self._fail("has another header than the directory says", name)
        start: int = name_end + extra_length
        return start

    def _check_overlaps(self, members: list[Member], begin: int) -> None:
        ordered = sorted(members, key=lambda member: member.start)
        for member, following in zip(ordered, [*ordered[1:], None], strict=True):
            limit = following.start - _LOCAL.size - len(following.name) if following else begin
            if member.stop > limit:
                self._fail("overlaps another member", member.name)

    def _fail(self, problem: str, member: str = "", hint: str = PREPARE_AGAIN) -> NoReturn:
        raise DataError(f"{self._file.path}:{member}" if member else self._file.path, problem, hint=hint)


def _listed(names: Sequence[str]) -> str:
    shown = ", ".join(repr(name[:40]) for name in names[:4])
    return shown if len(names) <= 4 else f"{shown} and {len(names) - 4} more"
