"""What somebody who can write to a checkpoint's folder can do to it, marker and manifest made to agree."""

import json
import os
import pickle
import shutil
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from dlrm.checkpoint.manifest import MAX_MANIFEST_BYTES, committed_text

TENSORS = "rank_0000.safetensors"


class Payload:
    """Makes a file ``executed`` where it is unpickled."""

    def __init__(self, folder: Path) -> None:
        self.command = f"touch {folder.parent / 'executed'}"

    def __reduce__(self):
        return os.system, (self.command,)


@dataclass(frozen=True)
class Case:
    """What is done to a good checkpoint, and what the refusal says."""

    name: str
    damage: Callable[[Path], object]
    says: str


def commit_text(folder: Path, text: bytes) -> None:
    (folder / "manifest.json").write_bytes(text)
    (folder / "COMMITTED").write_bytes(committed_text(text))


def edit(change: Callable[[dict], object]) -> Callable[[Path], object]:
    """Change the manifest as JSON and commit it anew."""

    def act(folder: Path) -> None:
        content = json.loads((folder / "manifest.json").read_text())
        change(content)
        commit_text(folder, json.dumps(content).encode())

    return act


def replace_text(old: bytes, new: bytes) -> Callable[[Path], object]:
    """Change the manifest as text and commit it anew."""

    def act(folder: Path) -> None:
        text = (folder / "manifest.json").read_bytes()
        assert old in text
        commit_text(folder, text.replace(old, new, 1))

    return act


def pickled(name: str) -> Callable[[Path], object]:
    def act(folder: Path) -> None:
        payload = pickle.dumps(Payload(folder))
        path = folder / name
        if name == TENSORS:  # of the size that is expected
            payload = payload.ljust(path.stat().st_size, b"\0")
        path.write_bytes(payload)
        if name == "manifest.json":
            commit_text(folder, payload)

    return act


def renamed_file(name: str) -> Callable[[Path], object]:
    """The manifest calls a file otherwise, and the file is there."""

    def act(folder: Path) -> None:
        edit(lambda content: content["files"][0].update(name=name))(folder)
        target = folder / name
        if "\0" not in name and not target.exists():
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(folder / TENSORS, target)

    return act


def link(name: str, *, symbolic_target: str) -> Callable[[Path], object]:
    """A file is moved outside and a link to it left in its place."""

    def act(folder: Path) -> None:
        outside = (folder / symbolic_target).resolve()
        shutil.move(folder / name, outside)
        (folder / name).symlink_to(outside if name != "COMMITTED" else symbolic_target)

    return act


def pipe(folder: Path) -> None:
    (folder / TENSORS).unlink()
    os.mkfifo(folder / TENSORS)


def folder_instead(folder: Path) -> None:
    (folder / TENSORS).unlink()
    (folder / TENSORS).mkdir()


def header_length(length: int) -> Callable[[Path], object]:
    def act(folder: Path) -> None:
        data = (folder / TENSORS).read_bytes()
        (folder / TENSORS).write_bytes(struct.pack("<Q", length) + data[8:])

    return act


def other_header(folder: Path) -> None:
    data = (folder / TENSORS).read_bytes()
    (folder / TENSORS).write_bytes(data.replace(b"F32", b"I32", 1))


def huge_manifest(folder: Path) -> None:
    with open(folder / "manifest.json", "wb") as file:
        file.truncate(MAX_MANIFEST_BYTES + 1)


def chunk(index: int, **changes) -> Callable[[Path], object]:
    return edit(lambda content: content["files"][0]["pieces"][index].update(changes))


def tensor(index: int, **changes) -> Callable[[Path], object]:
    return edit(lambda content: content["tensors"][index].update(changes))


def metadata(text: bytes) -> Callable[[Path], object]:
    return replace_text(b'"facts":{}', b'"facts":{"x":' + text + b"}")


def swap_ranges(content: dict) -> None:
    one, other = content["files"][0]["pieces"][:2]
    one["range"], other["range"] = other["range"], one["range"]
    one["checksum"], other["checksum"] = other["checksum"], one["checksum"]


def second_name(content: dict) -> None:
    content["files"].append(dict(content["files"][0]))


CASES = [
    # pickles
    Case("pickled tensors", pickled(TENSORS), "does not begin as it was written"),
    Case("pickled manifest", pickled("manifest.json"), "is not valid JSON"),
    Case("pickled marker", pickled("COMMITTED"), "is not the one whose checksum"),
    Case("pickled .metadata beside", pickled(".metadata"), ".metadata: does not belong"),
    Case("pickle file beside", pickled("optimizer.pt"), "optimizer.pt: does not belong"),
    # names
    Case("name with ..", renamed_file("../outside.safetensors"), "files.0.name"),
    Case("absolute name", renamed_file("/tmp/outside.safetensors"), "files.0.name"),
    Case("name with a folder", renamed_file("a/rank_0000.safetensors"), "files.0.name"),
    Case("name of the manifest", renamed_file("manifest.json"), "files.0.name"),
    Case("name with NUL", renamed_file("rank_0000\0.safetensors"), "files.0.name"),
    Case("name with a newline", renamed_file("rank_0000.safetensors\n"), "files.0.name"),
    Case("file listed twice", edit(second_name), "a file is listed twice"),
    # links and other things in place of files
    Case("link instead of tensors", link(TENSORS, symbolic_target="../outside"), "is no plain file"),
    Case("link instead of the manifest", link("manifest.json", symbolic_target="../outside"), "is no plain file"),
    Case("link instead of the marker", link("COMMITTED", symbolic_target="../outside"), "COMMITTED: cannot be read"),
    Case("named pipe", pipe, "is no plain file"),
    Case("folder instead of a file", folder_instead, "is no plain file"),
    # headers
    Case("header of 2^63 bytes", header_length(2**63), "does not begin as it was written"),
    Case("header of 100 GB", header_length(10**11), "does not begin as it was written"),
    Case("header with another type", other_header, "does not begin as it was written"),
    # JSON
    Case("repeated key", replace_text(b'"version":1,', b'"version":1,"version":1,'), "a key is given twice"),
    Case("deep nesting", metadata(b"[" * 200_000 + b"]" * 200_000), "is not valid JSON"),
    Case("deep nesting of objects", metadata(b'{"a":' * 100_000 + b"1" + b"}" * 100_000), "is not valid JSON"),
    Case("NaN", metadata(b"NaN"), "NaN is no number"),
    Case("infinity", metadata(b"-Infinity"), "-Infinity is no number"),
    Case("number beyond floats", metadata(b"1e999"), "1e999 is too large"),
    Case("integer of 10,000 digits", metadata(b"9" * 10_000), "is not valid JSON"),
    Case("no UTF-8", metadata(b'"\xff\xfe"'), "is not valid JSON"),
    Case("lone surrogate", metadata(b'"\\ud800"'), "manifest.json"),
    Case(
        "something behind the JSON",
        lambda f: commit_text(f, (f / "manifest.json").read_bytes() + b"{}"),
        "is not valid",
    ),
    Case("a list", lambda folder: commit_text(folder, b"[]"), "is nothing of a checkpoint"),
    Case("empty manifest", lambda folder: commit_text(folder, b""), "is not valid JSON"),
    Case("huge manifest", huge_manifest, "more than any manifest"),
    Case("another format", edit(lambda content: content.update(format="torch")), "no format"),
    Case("another version", edit(lambda content: content.update(version=2)), "format version 2"),
    Case("version true", edit(lambda content: content.update(version=True)), "format version True"),
    Case("unknown key", edit(lambda content: content.update(hook="os.system")), "hook"),
    Case("text instead of a number", edit(lambda content: content.update(step="1")), "step"),
    Case("step -1", edit(lambda content: content.update(step=-1)), "step"),
    Case("no tensors", edit(lambda content: content.pop("tensors")), "tensors"),
    Case("world of 0", edit(lambda content: content.update(world_size=0)), "world_size"),
    # tensors and chunks
    Case("type object", tensor(0, dtype="object"), "is no type of a tensor"),
    Case("type with a call", tensor(0, dtype="__import__('os')"), "is no type of a tensor"),
    Case("another type of the same width", tensor(0, dtype="int32"), "does not"),
    Case("negative shape", tensor(0, shape=[-37, 8]), "tensors.0.shape"),
    Case("shape beyond 2^63", tensor(0, shape=[2**62, 2**62]), "more bytes than there are"),
    Case("number beyond 2^64 in a shape", tensor(0, shape=[2**70, 8]), "tensors.0.shape"),
    Case("float in a shape", tensor(0, shape=[37.0, 8]), "tensors.0.shape"),
    Case("too many dimensions", tensor(0, shape=[1] * 40), "tensors.0.shape"),
    Case("larger shape", tensor(0, shape=[38, 8]), "8 of its 304 elements are missing"),
    Case("smaller shape", tensor(0, shape=[36, 8]), "is outside of shape"),
    Case("tensor twice", edit(lambda content: content["tensors"].append(content["tensors"][0])), "listed twice"),
    Case("name with a control character", tensor(0, name="a\x1b[2J\nb"), "is no name"),
    Case("tensor not listed", chunk(0, tensor="b"), "which is not listed"),
    Case("overlapping chunks", chunk(3, offsets=[14, 0]), "slices overlap"),
    Case("negative offset", chunk(1, offsets=[-1, 0]), "offsets"),
    Case("offset beyond", chunk(1, offsets=[36, 0]), "is outside of shape"),
    Case("offset that overflows", chunk(1, offsets=[2**63 - 1, 0]), "is outside of shape"),
    Case("offset without a dimension", chunk(1, offsets=[5]), "is outside of shape"),
    Case("empty chunk", chunk(1, shape=[0, 8]), "or empty"),
    Case("negative range", chunk(0, range=[-160, 0]), "range"),
    Case("range beyond the file", chunk(0, range=[10**12, 10**12 + 160]), "begins at byte"),
    Case("range of another length", chunk(0, range=[0, 10**12]), "not those of"),
    Case("ranges swapped", edit(swap_ranges), "begins at byte"),
    Case("missing chunk", edit(lambda content: content["files"][0]["pieces"].pop()), "begins at byte"),
    Case("no chunks", edit(lambda content: content["files"][0].update(pieces=[])), "pieces"),
    Case(
        "chunks under their new name",
        edit(lambda content: content["files"][0].update(chunks=content["files"][0].pop("pieces"))),
        "pieces",
    ),
    Case(
        "metadata under their new name", edit(lambda content: content.update(metadata=content.pop("facts"))), "metadata"
    ),
    Case("another size", edit(lambda content: content["files"][0].update(bytes=10**15)), "but its chunks end at"),
    Case("checksum that is none", chunk(0, checksum="0"), "checksum"),
    Case("checksum of other bytes", chunk(0, checksum="0" * 64), "are not those that were written"),
    # files
    Case("missing file", lambda folder: (folder / TENSORS).unlink(), "is missing"),
    Case("extra file", lambda folder: (folder / "rank_0001.safetensors").write_bytes(b""), "does not belong"),
    Case("extra folder", lambda folder: (folder / "__pycache__").mkdir(), "does not belong"),
    Case("no marker", lambda folder: (folder / "COMMITTED").unlink(), "no COMMITTED"),
    Case("empty marker", lambda folder: (folder / "COMMITTED").write_bytes(b""), "is not the one whose checksum"),
    Case("no manifest", lambda folder: (folder / "manifest.json").unlink(), "no manifest.json"),
    Case("empty folder", lambda folder: [path.unlink() for path in folder.iterdir()], "is no committed checkpoint"),
    Case("file instead of the folder", lambda f: (shutil.rmtree(f), f.write_bytes(b"")), "no such folder"),
]
