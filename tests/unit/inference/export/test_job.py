"""The command export: what it reads and says, and what it refuses before anything is written."""

import shutil
from dataclasses import asdict
from pathlib import Path

import pytest
import torch

from dlrm.checkpoint.reader import open_reader
from dlrm.config import load_config
from dlrm.config.export import ExportRequest
from dlrm.data.build import build_dataset
from dlrm.errors import ConfigError, DataError, ExportError
from dlrm.inference.export import extras
from dlrm.inference.export.job import run_export
from dlrm.inference.export.write import new_export
from dlrm.inference.exported import program as program_module
from dlrm.inference.exported.folder import open_export
from dlrm.inference.exported.manifest import CompiledRecord
from dlrm.inference.exported.predictor import open_predictor
from tests.support.exports import write_export
from tests.unit.data.parquet.parquet_files import columns, write
from tests.unit.inference.saved_models import random_features, save_model

PARQUET = [
    "--data={kind: parquet, path: PATH, dense: [x], sparse: [small, large], rows: [100, 200]}",
    "--model={kind: dlrm, bottom_mlp: [8, 4], embedding_dim: 4, top_mlp: [8, 1]}",
]


def words(*options: str) -> ExportRequest:
    return ExportRequest.of(options)


@pytest.fixture
def trained_on_files(tmp_path):
    """A model that was trained on two Parquet files, and their folder."""
    data = tmp_path / "data"
    data.mkdir()
    for i in range(2):
        write(data / f"train_{i}.parquet", columns(60, 60 * i))
    options = [option.replace("PATH", str(data)) for option in PARQUET]
    source = build_dataset(load_config(None, options).data).train
    position = {"epoch": 0, "batch": 1, "step": 1, "samples": 8, "epoch_ended": False}
    metadata = {
        "position": position,
        "order": {"data.samples": source.num_samples},
        "data_files": [asdict(file) for file in source.fingerprint()],
    }
    return save_model(tmp_path / "c", *options, metadata=metadata), data


def test_data_that_were_moved_are_named_and_data_that_are_others_are_refused(trained_on_files, tmp_path, capsys):
    saved, data = trained_on_files
    request = (f"--checkpoint={saved.path}", f"--output={tmp_path / 'e'}")
    run_export(words(*request))
    assert open_export(tmp_path / "e").manifest.source.samples == 8
    data.rename(tmp_path / "moved")
    with pytest.raises((DataError, ConfigError), match=r"name them with --data\.path NEW"):
        run_export(words(*request, "--overwrite"))
    run_export(words(*request, "--overwrite", "--data.path", str(tmp_path / "moved")))
    write(tmp_path / "moved" / "train_0.parquet", {name: values[::-1] for name, values in columns(60, 0).items()})
    with pytest.raises(
        DataError, match=r"are not the data that the checkpoint was trained on: train_0.*--data\.path"
    ) as error:
        run_export(words(*request, "--overwrite", f"data.path={tmp_path / 'moved'}"))
    assert "\n" not in str(error.value)
    open_predictor(tmp_path / "e")  # of before
    shutil.rmtree(tmp_path / "moved")
    with pytest.raises(ConfigError, match=r"data\.pth"):
        run_export(words(*request, "--overwrite", "--data.pth=x"))


def test_a_model_trained_in_bf16_is_said_to_be_exported_in_fp32(tmp_path, capsys):
    saved = save_model(tmp_path / "c", "--precision.dense=bf16")
    run_export(words(f"--checkpoint={saved.path}", f"--output={tmp_path / 'e'}"))
    assert "trained with precision.dense bf16; the export computes in fp32" in capsys.readouterr().out


def test_what_extras_need_is_asked_for_before_anything_is_read(tmp_path, monkeypatch):
    request = (f"--checkpoint={tmp_path / 'none'}", f"--output={tmp_path / 'e'}")
    monkeypatch.setattr(extras.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(
        ConfigError, match=r"^onnx: needs onnx and onnxscript; install with: pip install onnx onnxscript$"
    ):
        run_export(words(*request, "--onnx"))
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    with pytest.raises(ConfigError, match=r"^compile: needs a C\+\+ compiler, and there is none; install g\+\+"):
        run_export(words(*request, "--compile"))


@pytest.mark.slow
def test_compiled_code_answers_as_the_program_and_a_row_the_same_in_any_batch(tmp_path, capsys, monkeypatch):
    saved = save_model(tmp_path / "c")
    run_export(words(f"--checkpoint={saved.path}", f"--output={tmp_path / 'e'}", "--compile"))
    assert "compiling the dense part" in capsys.readouterr().out
    features = random_features(saved.schema, 1100)
    program, compiled = open_predictor(tmp_path / "e"), open_predictor(tmp_path / "e", compiled=True)
    together = compiled.logits(features)
    torch.testing.assert_close(together, program.logits(features), rtol=0, atol=1e-6)
    for size in (1, 31, 33, 100, 1025):
        parts = [compiled.logits(features[start : start + size]) for start in range(0, min(1100, 20 * size), size)]
        assert torch.equal(torch.cat(parts), together[: sum(map(len, parts))])
    package = (tmp_path / "e" / "dense_compiled.pt2").read_bytes()
    assert torch.__path__[0].encode() not in package
    assert b"GOMP_parallel" not in package  # threads of its own, as many as where it was compiled
    assert str(Path.home()).encode() + b"/" not in package
    assert b".cpp" not in package.rpartition(b"PK\x01\x02")[2]
    with monkeypatch.context() as patch:
        patch.setattr(program_module, "processor", lambda _: "avx2 fma")
        with pytest.raises(
            ExportError, match=r"is compiled for processors with .*avx512f.* which this one lacks; export"
        ):
            open_predictor(tmp_path / "e", compiled=True)


def test_machine_code_for_other_machines_is_not_loaded(monkeypatch, tmp_path):
    """Whatever is in the file: it is not opened."""
    monkeypatch.setattr(program_module, "processor", lambda _: "avx2 fma")
    monkeypatch.setattr(program_module.platform, "machine", lambda: "x86_64")
    path = str(tmp_path / "none.pt2")
    for record, problem in [
        (CompiledRecord(machine="aarch64", capability="SVE256"), "aarch64, and this machine is x86_64"),
        (
            CompiledRecord(machine="x86_64", capability="AVX512", instructions=("avx2", "avx512f", "fma")),
            "processors with avx512f, which this one lacks",
        ),
        (CompiledRecord(machine="x86_64", capability="AVX2", instructions=("avx2",)), "cannot be loaded"),
    ]:
        with pytest.raises(ExportError, match=problem):
            program_module.load_compiled(path, record)


def test_an_export_without_machine_code_says_how_to_get_some(tmp_path):
    saved = save_model(tmp_path / "c")
    with new_export(str(tmp_path / "e"), overwrite=False) as writer:
        write_export(open_reader(saved.path), writer)
    with pytest.raises(ExportError, match="holds no compiled code; export it with --compile true"):
        open_predictor(tmp_path / "e", compiled=True)


def anonymous_bytes() -> int:
    """Memory of this process that is no file's."""
    status = Path("/proc/self/status").read_text()
    return int(status.partition("RssAnon:")[2].split()[0]) << 10


@pytest.mark.slow
def test_memory_does_not_grow_with_the_tables(tmp_path):
    """A table of 256 MB in files of 40 MB; what is told meanwhile are all its bytes."""
    rows, dim = 1_000_000, 64
    sizes = ["--data.rows=[1000000]", "--model={kind: dlrm, bottom_mlp: [16, 64], embedding_dim: 64, top_mlp: [8, 1]}"]
    saved = save_model(tmp_path / "c", *sizes)
    reader, path = open_reader(saved.path), tmp_path / "e"
    saved.state.clear()
    told, most = [], 0
    before = anonymous_bytes()

    def progress(size: int) -> None:
        nonlocal most
        told.append(size)
        most = max(most, anonymous_bytes() - before)

    with new_export(str(path), overwrite=False) as writer:
        write_export(reader, writer, max_file_bytes=40 << 20, progress=progress)
    assert sum(told) >= rows * dim * 4
    assert most < 200 << 20, most


def test_a_checkpoint_in_a_store_of_objects_gives_the_same_export(bucket, tmp_path):
    saved = save_model(tmp_path / "c")
    for file in saved.path.iterdir():
        bucket.client.upload_file(str(file), bucket.name, f"run/{saved.path.name}/{file.name}")
    run_export(words(f"--checkpoint={bucket.url}/run/{saved.path.name}", f"--output={tmp_path / 'e'}"))
    features = random_features(saved.schema, 40)
    found_BT = open_predictor(tmp_path / "e").logits(features)
    torch.testing.assert_close(found_BT, saved.logits(features), rtol=0, atol=1e-6)


def test_tables_that_grow_are_refused_and_options_that_no_table_has_are_not(tmp_path):
    growing = "--model.embedding={kind: growing, rows: 50}"
    none_grows = [f"--model.tables.cat_{place}.embedding.kind=full" for place in range(5)]
    saved = save_model(tmp_path / "full", growing, *none_grows)
    run_export(words(f"--checkpoint={saved.path}", f"--output={tmp_path / 'e'}"))
    assert len(open_export(tmp_path / "e").manifest.tables) == 5
    saved = save_model(tmp_path / "growing", growing, *none_grows[1:])
    with pytest.raises(ExportError, match=r"table cat_0 is growing: .*not yet which id has which"):
        run_export(words(f"--checkpoint={saved.path}", f"--output={tmp_path / 'g'}"))
    assert not (tmp_path / "g").exists()
