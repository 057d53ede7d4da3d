"""Exports that are damaged, or made to harm: one line, nothing loaded, and no code of theirs is run."""

import io
import json
import os
import pickle
import random
import re
import shutil
import struct
import zipfile
import zlib
from pathlib import Path

import pytest
import torch

from dlrm.checkpoint.manifest import COMMITTED_NAME, MANIFEST_NAME, committed_text
from dlrm.checkpoint.reader import open_reader
from dlrm.errors import ExportError
from dlrm.inference.export.write import new_export
from dlrm.inference.exported import tables
from dlrm.inference.exported.folder import open_export
from dlrm.inference.exported.manifest import dump_manifest
from dlrm.inference.exported.predictor import open_predictor
from dlrm.inference.exported.program import load_program
from tests.support.exports import write_export
from tests.unit.inference.saved_models import save_model

GRAPH = "model/models/model.json"
WEIGHTS = "model/data/weights/model_weights_config.json"
CONSTANTS = "model/data/constants/model_constants_config.json"
SAMPLES = "model/data/sample_inputs/model.pt"
FILES = ["dense.pt2", "tables_0001.safetensors", "manifest.json", "COMMITTED"]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("hostile")
    saved = save_model(folder)
    with new_export(str(folder / "e"), overwrite=False) as writer:
        write_export(open_reader(saved.path), writer, max_file_bytes=4000)
    return folder / "e"


@pytest.fixture
def copy(whole, tmp_path):
    return Path(shutil.copytree(whole, tmp_path / "e"))


def refused(folder: Path) -> str:
    """The one line by which an export is refused."""
    with pytest.raises(ExportError) as error:
        open_predictor(folder)
    line = str(error.value)
    assert "\n" not in line
    assert line.startswith(str(folder))
    return line


@pytest.mark.parametrize("name", [*FILES, "tables_0000.safetensors"])
def test_no_byte_may_be_another_one(name, copy):
    path = copy / name
    data = path.read_bytes()
    offsets = random.Random(name).sample(range(len(data)), 12)
    for offset in [0, len(data) - 1, *offsets]:
        path.write_bytes(data[:offset] + bytes([data[offset] ^ (1 << offset % 8)]) + data[offset + 1 :])
        refused(copy)
    path.write_bytes(data)
    open_predictor(copy)


@pytest.mark.parametrize("name", FILES)
def test_files_that_are_missing_cut_longer_links_or_folders_are_refused(name, copy, tmp_path):
    path = copy / name
    data = path.read_bytes()
    for other in (b"", data[:-1], data[: len(data) // 2], data + b"\0"):
        path.write_bytes(other)
        refused(copy)
    path.unlink()
    assert "missing" in refused(copy) or "is no export" in refused(copy) or "never finished" in refused(copy)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.write_bytes(data)
    path.symlink_to(elsewhere)
    assert "is a link" in refused(copy)
    path.unlink()
    path.mkdir()
    assert "is no file" in refused(copy)
    path.rmdir()
    os.mkfifo(path)
    assert "is no file" in refused(copy)


def test_folders_that_are_something_else_are_refused(whole, tmp_path):
    (tmp_path / "empty").mkdir()
    assert "is no export: it has no manifest.json" in refused(tmp_path / "empty")
    assert "there is no such folder" in refused(tmp_path / "none")
    assert "is no folder" in refused(whole / "dense.pt2")
    checkpoint = next(path for path in whole.parent.iterdir() if path.name.startswith("step_"))
    assert "is not the manifest of an export" in refused(checkpoint)


def rewritten(folder: Path, change) -> None:
    """Change a manifest, and have COMMITTED agree, as somebody would who wants it to be read."""
    content = json.loads((folder / MANIFEST_NAME).read_bytes())
    change(content)
    text = json.dumps(content).encode()
    (folder / MANIFEST_NAME).write_bytes(text)
    (folder / COMMITTED_NAME).write_bytes(committed_text(text))


def put(*path, value):
    def change(content):
        for key in path[:-1]:
            content = content[key]
        content[path[-1]] = value

    return change


def bags(**changed):
    return put("preprocessing", "bags", value={**HASHED, **changed})


HASHED = {"kind": "hashed", "hotness": [1], "distribution": "uniform", "seed": 0}
MANIFESTS = {
    "another version": (put("version", value=2), "has format version 2"),
    "a path": (put("files", 0, "name", value="../dense.pt2"), "files.0.name"),
    "an absolute path": (put("files", 0, "name", value="/etc/passwd"), "files.0.name"),
    "another file": (put("files", 0, "name", value="other.pt2"), "dense.pt2 is not listed"),
    "negative bytes": (put("files", 0, "bytes", value=-1), "files.0.bytes"),
    "other bytes": (put("files", 0, "bytes", value=10), "has .* bytes, the manifest says 10"),
    "enormous rows": (put("sparse", 0, "rows", value=2**47), "rows are listed, not"),
    "more than enormous": (put("sparse", 0, "rows", value=2**90), "sparse.0.rows"),
    "enormous dim": (put("tables", 0, "dim", value=2**47), "bytes, its tables"),
    "no rows": (put("sparse", 0, "rows", value=0), "sparse.0.rows"),
    "a number as text": (put("sparse", 0, "rows", value="40"), "sparse.0.rows"),
    "a fraction": (put("sparse", 0, "rows", value=40.5), "sparse.0.rows"),
    "odd precision": (put("tables", 0, "precision", value="fp64"), "tables.0.precision"),
    "other precision": (put("tables", 0, "precision", value="int8"), "bytes, its tables"),
    "one table less": (lambda content: content["tables"].pop(), "5 sparse features and 4 tables"),
    "a table twice": (put("sparse", 1, "name", value="cat_0"), "listed twice"),
    "a file twice": (lambda content: content["files"].append(content["files"][1]), "listed twice"),
    "a task twice": (put("tasks", value=["label", "label"]), "task 'label' is listed twice"),
    "one column less": (lambda content: content["dense"].pop(), "does not run|other columns"),
    "an unknown key": (put("code", value="import os"), "code"),
    "pieces out of order": (put("files", 1, "pieces", 0, "first_row", value=3), "begins with row 3"),
    "a piece of no table": (put("files", 1, "pieces", 0, "table", value=99), "piece of table 99"),
    "a seed that no recipe takes": (bags(kind="mlperf", seed=2**40), "bags: .*seed: must be less than 4294967296"),
    "a negative seed": (bags(seed=-1), "bags: .*seed: must be greater"),
    "enormous bags": (bags(hotness=[2**31 - 1]), "bags.hotness.0: must be less than or equal to 65536"),
    "many large bags": (bags(hotness=[2**16] * 17), "1,114,112 ids a row, more than 1,048,576"),
    "bags of other features": (bags(hotness=[1, 1]), "bags.hotness: has 2 entries, the data has 5"),
    "enormous hotness": (put("sparse", 0, "hotness", value=2**31 - 1), "sparse.0.hotness: .* 65536"),
    "other tables": (put("preprocessing", "sparse", 0, "rows", value=2**40), "ids of other tables"),
}


@pytest.mark.parametrize(("change", "problem"), MANIFESTS.values(), ids=MANIFESTS)
def test_a_manifest_that_contradicts_itself_or_the_files_is_refused(change, problem, copy):
    rewritten(copy, change)
    line = refused(copy)
    assert re.search(problem, line), line


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"[]",
        b"{}",
        b"[" * 100_000,
        b'{"format": "dlrm-export", "format": 1}',
        b'{"a": NaN}',
        b"\xff",
        b"9" * 10_000,
    ],
)
def test_what_is_no_json_of_a_manifest_is_refused(text, copy):
    (copy / MANIFEST_NAME).write_bytes(text)
    (copy / COMMITTED_NAME).write_bytes(committed_text(text))
    refused(copy)


def test_tables_larger_than_the_memory_are_refused_before_they_are_read(copy, monkeypatch):
    monkeypatch.setattr(tables, "free_memory_bytes", lambda: 1000)
    assert "of memory are free; use a host with more memory" in refused(copy)


class Canary:
    """Leaves a file where it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


def members(program: bytes) -> dict[str, bytes]:
    with zipfile.ZipFile(io.BytesIO(program)) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def archive(found: dict[str, bytes], compression=zipfile.ZIP_STORED) -> bytes:
    written = io.BytesIO()
    with zipfile.ZipFile(written, "w", compression) as target:
        for name, data in found.items():
            target.writestr(name, data)
    return written.getvalue()


def with_graph(change):
    def spoil(found, canary):
        graph = json.loads(found[GRAPH])
        change(graph, f"__import__('pathlib').Path({str(canary)!r}).touch()")
        found[GRAPH] = json.dumps(graph).encode()

    return spoil


def nodes(graph):
    return graph["graph_module"]["graph"]["nodes"]


def with_target(target):
    return with_graph(lambda graph, code: nodes(graph)[0].update(target=target))


def with_argument(argument):
    return with_graph(lambda graph, code: nodes(graph)[0]["inputs"].append({"name": "x", "arg": argument, "kind": 2}))


def with_expression(text):
    def change(graph, code):
        sizes = graph["graph_module"]["graph"]["tensor_values"]["dense_bn"]["sizes"]
        sizes[0] = {"as_expr": {"expr_str": text.format(code=code), "hint": None}}

    return with_graph(change)


def with_tree(text):
    def change(graph, code):
        graph["graph_module"]["module_call_graph"][0]["signature"]["in_spec"] = text

    return with_graph(change)


def renamed(graph, code):
    """A name of an input is written into the code that torch makes of a program."""
    text = json.dumps(graph).replace("pooled_bx", f"pooled_bx=({code})".replace('"', "'"))
    graph.clear()
    graph.update(json.loads(text))


def pickled(name):
    return lambda found, canary: found.update({name: pickle.dumps(Canary(canary))})


def pickled_tensor(config):
    def spoil(found, canary):
        content = json.loads(found[config])
        entry = next(iter(content["config"].values()))
        entry["use_pickle"] = True
        found[config] = json.dumps(content).encode()
        found[f"{config.rpartition('/')[0]}/{entry['path_name']}"] = pickle.dumps(Canary(canary))

    return spoil


def custom_object(found, canary):
    content = json.loads(found[CONSTANTS])
    entry = {"path_name": "opaque_obj_0", "is_param": False, "use_pickle": True, "tensor_meta": None}
    content["config"]["x"] = entry
    found[CONSTANTS] = json.dumps(content).encode()
    found["model/data/constants/opaque_obj_0"] = pickle.dumps(Canary(canary))


def enormous_tensor(found, canary):
    """A member without bytes, for which torch makes as many zeros as it says."""
    content = json.loads(found[WEIGHTS])
    entry = next(iter(content["config"].values()))
    entry["tensor_meta"]["sizes"] = [{"as_int": 2**39}]
    entry["tensor_meta"]["strides"] = [{"as_int": 1}]
    found[WEIGHTS] = json.dumps(content).encode()
    found[f"model/data/weights/{entry['path_name']}"] = b""


ENUM = json.dumps({"__enum__": True, "fqn": "antigravity:x", "name": "y"})
TREE = json.dumps([1, {"type": "builtins.tuple", "context": ENUM, "children_spec": []}])
PROGRAMS = {
    "sample inputs": pickled(SAMPLES),
    "weights of old": pickled("model/data/weights/model.pt"),
    "constants of old": pickled("model/data/constants/model.pt"),
    "a pickled weight": pickled_tensor(WEIGHTS),
    "a pickled constant": pickled_tensor(CONSTANTS),
    "an opaque object": custom_object,
    "machine code": lambda found, canary: found.update({"model/data/aotinductor/model/a.so": b"\x7fELF"}),
    "an extra file": lambda found, canary: found.update({"model/extra/x": b"1"}),
    "an archive of 2.7": lambda found, canary: found.update(
        {"serialized_example_inputs.pt": pickle.dumps(Canary(canary))}
    ),
    "guards": with_graph(lambda graph, code: graph.update(guards_code=[code])),
    "a default value": with_graph(renamed),
    "metadata": with_graph(lambda graph, code: nodes(graph)[0].update(metadata={"source_fn_stack": "x,torch.load"})),
    "torch.load": with_target("torch.load"),
    "torch.hub.load": with_target("torch.hub.load"),
    "a suffix": with_target("torch.ops.aten.linear.default.__class__"),
    "a class": with_target("torch.ops.aten.__class__.__init__"),
    "no overload": with_target("torch.ops.aten.linear.__init__"),
    "other operators": with_target("torch.ops.fbgemm.FloatToFP8RowwiseQuantized.default"),
    "loading libraries": with_target("torch.ops.load_library"),
    "a file": with_target("torch.ops.aten.from_file.default"),
    "a mutation": with_target("torch.ops.aten.add_.Tensor"),
    "memory as it was": with_target("torch.ops.aten.empty.memory_format"),
    "attributes": with_target("_operator.attrgetter"),
    "calls": with_target("_operator.call"),
    "mathematics": with_target("math.factorial"),
    "an extension": with_target("#x:y"),
    "a higher order": with_target("torch.ops.higher_order.cond"),
    "a function": with_argument({"as_operator": "torch.load"}),
    "a text": with_argument({"as_string": "/etc/passwd"}),
    "a subgraph": with_argument({"as_graph": {"name": "g", "graph": {}}}),
    "an object": with_argument({"as_custom_obj": {"name": "x", "class_fqn": "a.B"}}),
    "two at once": with_argument({"as_int": 1, "as_tensor": {"name": "x"}}),
    "a device": with_argument({"as_device": {"type": "cuda", "index": 0}}),
    "a call in an expression": with_expression("{code}"),
    "a power": with_expression("9**9**9**9"),
    "a lambda": with_expression("(lambda: 1)()"),
    "an attribute": with_expression("s0.__class__"),
    "another symbol": with_expression("Symbol('__import__')"),
    "a module in a tree": with_tree(TREE),
    "a default dict": with_tree('[1, {"type": "collections.defaultdict", "context": "{}", "children_spec": []}]'),
    "many symbols": with_graph(
        lambda graph, code: graph["range_constraints"].update(u999999999999={"min_val": 1, "max_val": 2})
    ),
    "an enormous tensor": enormous_tensor,
}


@pytest.mark.parametrize("spoil", PROGRAMS.values(), ids=PROGRAMS)
def test_programs_that_would_do_something_else_are_refused_and_nothing_of_them_runs(spoil, whole, tmp_path):
    found, canary = members((whole / "dense.pt2").read_bytes()), tmp_path / "canary"
    spoil(found, canary)
    with pytest.raises(ExportError) as error:
        load_program(archive(found), "dense.pt2")
    assert "\n" not in str(error.value)
    assert "torch 2" not in str(error.value)  # what torch says: it is never asked
    assert not canary.exists()


def test_archives_are_taken_only_as_they_are_made(whole):
    data = (whole / "dense.pt2").read_bytes()
    found = members(data)
    assert isinstance(load_program(archive(found), "dense.pt2"), torch.export.ExportedProgram)
    for other in (
        archive(found, zipfile.ZIP_DEFLATED),
        archive(found)[: len(data) // 2],
        b"",
        b"PK",
        data.replace(b"model/byteorder", b"model/archive_f"),
        archive({name: value for name, value in found.items() if name != WEIGHTS}),
        archive({"model/nested.zip": archive(found)}),
        archive({f"other/{name.partition('/')[2]}": value for name, value in found.items()}),
    ):
        with pytest.raises(ExportError):
            load_program(other, "dense.pt2")


def test_members_that_lie_over_each_other_are_refused_before_they_are_read(monkeypatch):
    """Each is the whole of the next: 400 of them would be 400 times the archive."""
    names, tail, found = [f"model/a{number:03}".encode() for number in range(400)], b"x" * (1 << 16), []
    for name in names:
        found.append((name, zlib.crc32(tail), len(tail)))
        tail = (
            struct.pack("<IHHHHHIIIHH", 0x04034B50, 20, 0, 0, 0, 33, *found[-1][1:], len(tail), len(name), 0)
            + name
            + tail
        )
    directory = b"".join(
        struct.pack(
            "<IHHHHHHIIIHHHHHII", 0x02014B50, 20, 20, 0, 0, 0, 33, crc, size, size, len(name), 0, 0, 0, 0, 0, at
        )
        + name
        for at, (name, crc, size) in zip(range(0, 400 * 40, 40), reversed(found), strict=True)
    )
    end = struct.pack("<IHHHHIIH", 0x06054B50, 0, 0, len(found), len(found), len(directory), len(tail), 0)
    overlapping = tail + directory + end
    with zipfile.ZipFile(io.BytesIO(overlapping)) as source:
        assert len(source.read("model/a000")) == found[0][2]  # a reader takes it for an archive
    monkeypatch.setattr(zipfile.ZipFile, "read", lambda *_: pytest.fail("was read"))
    with pytest.raises(ExportError, match="holds bytes twice"):
        load_program(overlapping, "dense.pt2")


def test_a_second_member_of_the_same_name_is_refused(whole, tmp_path):
    """Two readers of one zip may take different ones."""
    found, written = members((whole / "dense.pt2").read_bytes()), io.BytesIO(archive({}))
    with zipfile.ZipFile(written, "w") as target:
        for name, data in found.items():
            target.writestr(name, data)
        with pytest.warns(UserWarning, match="Duplicate name"):
            target.writestr(SAMPLES, pickle.dumps(Canary(tmp_path / "canary")))
    with pytest.raises(ExportError, match=r"holds 'model/data/sample_inputs/model\.pt'"):
        load_program(written.getvalue(), "dense.pt2")


def test_a_program_of_other_shapes_is_refused_before_it_answers(whole, copy, tmp_path):
    folder = open_export(copy)
    rewritten(copy, put("tasks", value=["one", "two"]))
    assert "does not give logits of shape [32, 2]" in refused(copy) or "other columns" in refused(copy)
    assert dump_manifest(folder.manifest) == (whole / MANIFEST_NAME).read_bytes()
