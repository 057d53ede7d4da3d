"""Tables from file to file: the same as in memory, in little memory, and never of a damaged file."""

import dataclasses
import shutil

import pytest
import torch

from dlrm.checkpoint.manifest import COMMITTED_NAME, MANIFEST_NAME, committed_text
from dlrm.errors import ExportError
from dlrm.inference.export.write import new_export
from dlrm.inference.exported import tables
from dlrm.inference.exported.folder import open_export
from dlrm.inference.exported.manifest import dump_manifest
from dlrm.inference.exported.predictor import open_predictor
from dlrm.inference.exported.tables import read_tables, starts_of_tables
from dlrm.inference.quantise import tables as streaming
from dlrm.inference.quantise import variants
from dlrm.inference.quantise.choice import lowered_manifest
from dlrm.inference.quantise.job import write_quantised
from dlrm.inference.quantise.tables import tables_in_memory
from tests.support.exports import export

MIX = ("int8", "fp16", "int4", "fp32", "int8")


def quantise(folder, output, mix=MIX, dense="fp32"):
    with new_export(str(output), overwrite=False) as writer:
        return write_quantised(folder, writer, mix, dense)


def test_a_written_export_answers_as_its_tables_in_memory_do(tiny_variants, tiny_validation, tmp_path):
    quantise(tiny_variants.folder, tmp_path / "q")
    features = tiny_validation.features
    found = open_predictor(tmp_path / "q")
    assert [table.precision for table in found.manifest.tables] == list(MIX)
    assert torch.equal(found.logits(features), tiny_variants.predictor(MIX, "fp32").logits(features))
    assert not torch.equal(found.logits(features), tiny_variants.base.logits(features))
    assert sum(file.bytes for file in found.manifest.files) == tiny_variants.file_bytes(MIX, "fp32")


UNIFORM = [("fp32",) * 5, ("fp16",) * 5, ("int8",) * 5, ("int4",) * 5]


def test_float32_is_in_memory_once_and_what_fewer_bits_take_is_asked_for_before(tiny_variants, monkeypatch):
    manifest = tiny_variants.folder.manifest
    sizes = [starts_of_tables(lowered_manifest(manifest, mix, "fp32"))[1] for mix in UNIFORM]
    made, real = [], variants.tables_in_memory

    def counted(*arguments, **keywords):
        made.append(real(*arguments, **keywords))
        return made[-1]

    monkeypatch.setattr(variants, "tables_in_memory", counted)
    monkeypatch.setattr(tables, "free_memory_bytes", lambda: sum(sizes[1:]) - 1)
    with pytest.raises(ExportError, match=r"its tables in fewer bits take .* of memory are free"):
        tiny_variants.lookups(UNIFORM)
    assert made == []
    monkeypatch.setattr(tables, "free_memory_bytes", lambda: sum(sizes[1:]))
    assert len(tiny_variants.lookups(UNIFORM)) == 4
    assert [len(memory) for memory in made] == sizes[1:]
    assert sum(sizes) < 2.4 * sizes[0]  # of 8 columns


@pytest.mark.parametrize("dense", ["bf16", "int8"])
def test_a_rows_probability_does_not_depend_on_the_rows_it_is_asked_with(tiny_variants, tiny_validation, dense):
    predictor = tiny_variants.predictor(MIX, dense)
    features = tiny_validation.features
    together = predictor.probabilities(features)
    for size in (1, 7, 33, 100):
        parts = [predictor.probabilities(features[i : i + size]) for i in range(0, min(512, 40 * size), size)]
        apart = torch.cat(parts)
        assert torch.equal(apart, together[: len(apart)])


def test_tables_in_many_files_are_read_some_rows_at_a_time(tiny_run, tmp_path, monkeypatch):
    export(tiny_run, tmp_path / "cut", max_file_bytes=1000)
    folder = open_export(tmp_path / "cut")
    monkeypatch.setattr(streaming, "_BYTES_AT_ONCE", 32 * 3)
    seen = []
    monkeypatch.setattr(
        streaming,
        "stored_rows",
        lambda rows, *args, _stored=streaming.stored_rows, **more: (
            seen.append(len(rows)) or _stored(rows, *args, **more)
        ),
    )
    quantise(folder, tmp_path / "q")
    assert max(seen) == 3
    assert sum(seen) == 370
    monkeypatch.undo()
    written = open_export(tmp_path / "q")
    target = lowered_manifest(folder.manifest, MIX, "fp32")
    expected = tables_in_memory(folder.manifest, read_tables(folder), target, path="e")
    found = read_tables(written)
    for start, table, feature in zip(*starts_tables_features(target), strict=True):
        end = start + table.row_bytes * feature.rows  # between tables there is no telling
        assert torch.equal(found[start:end], expected[start:end])


def starts_tables_features(manifest):
    from dlrm.inference.exported.tables import starts_of_tables

    return starts_of_tables(manifest)[0], manifest.tables, manifest.sparse


def changed(tiny_export, path, place, value: bytes, *, sealed: bool):
    """A copy of an export with other bytes in its tables; sealed: its manifest says that these are right."""
    from hashlib import blake2b

    shutil.copytree(tiny_export, path)
    file = path / "tables_0000.safetensors"
    data = bytearray(file.read_bytes())
    data[place : place + len(value)] = value
    file.write_bytes(data)
    folder = open_export(path)
    if not sealed:
        return folder
    files = tuple(
        record.model_copy(update={"checksum": blake2b(data, digest_size=32).hexdigest()}) if record.pieces else record
        for record in folder.manifest.files
    )
    text = dump_manifest(folder.manifest.model_copy(update={"files": files}))
    (path / MANIFEST_NAME).write_bytes(text)
    (path / COMMITTED_NAME).write_bytes(committed_text(text))
    return open_export(path)


@pytest.mark.parametrize("sealed", [False, True])
def test_a_damaged_row_is_told_from_one_that_was_exported_so(tiny_export, tmp_path, sealed):
    manifest = open_export(tiny_export).manifest
    (pieces,) = [file.pieces for file in manifest.files if file.pieces]
    _, entries = manifest.table_layout(pieces)
    nan_in_row_5 = entries[2].start + 5 * 32 + 8
    folder = changed(tiny_export, tmp_path / "e", nan_in_row_5, b"\x00\x00\xc0\x7f", sealed=sealed)
    message = "row 5 of table cat_2 is not finite" if sealed else "its bytes are not those that were written"
    with pytest.raises(ExportError, match=message):
        quantise(folder, tmp_path / "q")
    assert [path.name for path in tmp_path.iterdir()] == ["e"]


def test_a_file_that_ends_too_early_or_begins_otherwise_is_an_error(tiny_export, tmp_path):
    folder = changed(tiny_export, tmp_path / "e", 20, b"?", sealed=False)
    with pytest.raises(ExportError, match="does not begin as the manifest says"):
        quantise(folder, tmp_path / "q")
    file = tmp_path / "e" / "tables_0000.safetensors"
    shutil.copy(tiny_export / file.name, file)
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(ExportError, match="ends too early"):
        quantise(folder, tmp_path / "q")


def test_vocabularies_go_with_it_and_forms_of_the_dense_part_only_where_it_stays(tiny_export, tmp_path):
    path = tmp_path / "e"
    source = open_export(tiny_export)
    with new_export(str(path), overwrite=False) as writer:
        for file in source.manifest.files:
            shutil.copy(tiny_export / file.name, writer.path / file.name)
            writer.finish(file.name, file.pieces)
        writer.add("vocabularies.safetensors", b"words")
        writer.add("dense.onnx", b"another form")
        writer.commit(source.manifest.model_copy(update={"files": tuple(writer.files)}))
    folder = open_export(path)
    same = quantise(folder, tmp_path / "same", dense="fp32")
    other = quantise(folder, tmp_path / "other", dense="int8")
    assert open_export(tmp_path / "same").read("dense.onnx") == b"another form"
    assert open_export(tmp_path / "other").read("vocabularies.safetensors") == b"words"
    assert other.file("dense.onnx") is None
    assert dataclasses.is_dataclass(folder)
    assert same.dense_precision == "fp32"
    assert other.dense_precision == "int8"
