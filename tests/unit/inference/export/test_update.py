"""An export brought up to date by deltas is the export that the newer checkpoint would give, to the byte."""

from pathlib import Path

import pytest
import torch

from dlrm.checkpoint.delta.format import DirtyShard
from dlrm.checkpoint.reader import open_reader
from dlrm.checkpoint.storage import LocalStorage
from dlrm.checkpoint.tensors import GlobalTensor
from dlrm.config.describe import to_plain
from dlrm.config.export import ExportRequest
from dlrm.errors import ExportError
from dlrm.inference.export import job
from dlrm.inference.export.dense_program import export_dense
from dlrm.inference.export.job import run_export
from dlrm.inference.export.update import Update
from dlrm.inference.export.write import new_export
from dlrm.inference.exported.folder import open_export
from dlrm.inference.exported.tables import read_tables, starts_of_tables
from tests.support.exports import write_export
from tests.unit.checkpoint.delta.deltas import alone, dirty_tensors, link
from tests.unit.checkpoint.states import State, save_ranks
from tests.unit.inference.export.lowered import lowered
from tests.unit.inference.saved_models import save_model

ROWS = {"cat_0": 40, "cat_1": 7, "cat_2": 300, "cat_3": 20}
SHARDS = {
    "cat_0": ((0, 0, 15, 8), (15, 0, 25, 8)),
    "cat_1": ((0, 0, 7, 8),),
    "cat_2": ((0, 0, 300, 3), (0, 3, 300, 5)),  # cut by columns
    "cat_3": ((0, 0, 20, 8),),
}
"""cat_4 is trained by the dense optimizer: every checkpoint has all of it."""
FIRST = {"cat_0": [0, 14, 15, 39], "cat_2": [7, 100, 299]}
SECOND = {"cat_0": [1, 15], "cat_1": list(range(7)), "cat_2": [100, 101]}
"""Rows that the two deltas have."""


@pytest.fixture(autouse=True, scope="module")
def _programs_of_the_same_weights_are_made_once():
    """torch.export takes seconds; the last test of the file, which has its own, shows that it gives the same again."""
    made: dict[bytes, torch.export.ExportedProgram] = {}

    def export_once(part, **sizes):
        weights = b"".join(tensor.detach().numpy().tobytes() for tensor in part.state_dict().values())
        if weights not in made:
            made[weights] = export_dense(part, **sizes)
        return made[weights]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(job, "export_dense", export_once)
        yield


def changed(state: State, rows: dict[str, list[int]], seed: int) -> State:
    """Another state: other weights everywhere but in the rows of sharded tables that are not listed."""
    generator = torch.Generator().manual_seed(seed)
    new = {}
    for name, value in state.values.items():
        table = name.split(".")[1] if name.startswith("tables.") else ""
        new[name] = value.clone()
        listed = rows.get(table, []) if table in SHARDS else slice(None)
        if value.is_floating_point():
            new[name][listed] = torch.randn(new[name][listed].shape, generator=generator)
    return State(new)


def save_delta(folder: Path, step: int, state: State, rows, *, base: Path, parent: Path, config, bits=32) -> Path:
    tensors: list[GlobalTensor] = []
    for table, places in SHARDS.items():
        for place in places:
            tensors += dirty_tensors(state, DirtyShard(table, *place), rows.get(table, []), bits)
    tensors += [
        alone(name, value)
        for name, value in state.values.items()
        if not name.startswith("tables.") or name.split(".")[1] not in SHARDS
    ]
    record = {
        "base": link(base).model_dump(),
        "parent": link(parent).model_dump(),
        "bits": bits,
        "shards": {table: [list(place) for place in places] for table, places in SHARDS.items()},
    }
    return save_ranks(folder, step, [tensors], {"config": to_plain(config), "increment": record})


@pytest.fixture(scope="module", params=[32, 8], ids=["exact", "8 bits"])
def chain(request, tmp_path_factory):
    """A full checkpoint and two deltas; and exports of all three."""
    folder = tmp_path_factory.mktemp("chain")
    saved = save_model(folder / "c", step=10)
    one = changed(State(saved.state), FIRST, 1)
    two = changed(one, SECOND, 2)
    options = {"base": saved.path, "config": saved.config, "bits": request.param}
    paths = [saved.path, save_delta(folder / "c", 20, one, FIRST, parent=saved.path, **options)]
    paths.append(save_delta(folder / "c", 30, two, SECOND, parent=paths[1], **options))
    exports = [whole(path, folder / f"e{number}") for number, path in enumerate(paths)]
    return paths, exports


def whole(checkpoint: Path, output: Path) -> Path:
    with new_export(str(output), overwrite=False) as writer:
        write_export(open_reader(checkpoint), writer, max_file_bytes=3000)
    return output


def updated(previous: Path, checkpoint: Path, output: Path) -> Path:
    reader = open_reader(checkpoint)
    with new_export(str(output), overwrite=False) as writer:
        write_export(reader, writer, update=Update.of(open_export(previous), reader))
    return output


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize(("before", "after"), [(0, 1), (1, 2), (0, 2), (2, 2)])
def test_every_file_is_that_of_a_whole_export(chain, before, after, tmp_path):
    paths, exports = chain
    found = contents(updated(exports[before], paths[after], tmp_path / "u"))
    expected = contents(exports[after])
    assert found == expected
    assert len([name for name in expected if name.startswith("tables_")]) > 3
    assert before == after or expected != contents(exports[before])


def test_rows_are_those_of_the_state_that_the_deltas_were_made_of(chain, tmp_path):
    paths, exports = chain
    saved = save_model(tmp_path / "c", step=10)
    two = changed(changed(State(saved.state), FIRST, 1), SECOND, 2)
    folder = open_export(updated(exports[0], paths[2], tmp_path / "u"))
    memory, (starts, _) = read_tables(folder), starts_of_tables(folder.manifest)
    for start, feature in zip(starts, folder.manifest.sparse, strict=True):
        expected_RD = two.values[f"tables.{feature.name}.weight"]
        found_RD = memory[start : start + expected_RD.numel() * 4].view(torch.float32).view(expected_RD.shape)
        torch.testing.assert_close(found_RD, expected_RD, rtol=0, atol=0.02)  # of 8 bits half a step
        unchanged = feature.name == "cat_3"
        assert not unchanged or torch.equal(found_RD, saved.state[f"tables.{feature.name}.weight"])


def test_of_the_checkpoints_before_only_manifests_are_read(chain, tmp_path, monkeypatch):
    paths, exports = chain
    read, original = [], LocalStorage.read
    monkeypatch.setattr(
        LocalStorage, "read", lambda self, path, *args: read.append((path, args[1])) or original(self, path, *args)
    )
    updated(exports[1], paths[2], tmp_path / "u")
    data = [(path, size) for path, size in read if path.endswith(".safetensors")]
    assert {path.split("/")[-2] for path, _ in data} == {paths[2].name}
    whole_bytes = sum(size for path, size in data)
    assert whole_bytes < sum(path.stat().st_size for path in paths[2].glob("*.safetensors"))
    read.clear()
    updated(exports[0], paths[2], tmp_path / "v")
    folders = {path.split("/")[-2] for path, _ in read if path.endswith(".safetensors")}
    assert folders == {paths[1].name, paths[2].name}


@pytest.mark.parametrize("precision", ["fp16", "int8", "int4"])
def test_tables_in_fewer_bits_stay_so(chain, precision, tmp_path):
    paths, exports = chain
    found = updated(lowered(exports[0], tmp_path / "low", precision), paths[2], tmp_path / "u")
    assert contents(found) == contents(lowered(exports[2], tmp_path / "expected", precision))


def test_what_no_delta_leads_from_is_refused_in_one_line(chain, tmp_path):
    paths, exports = chain
    other = save_model(tmp_path / "c", step=5)
    with pytest.raises(ExportError, match=r"was made of a checkpoint of step 30, which .*step_0+5 is no delta of"):
        updated(exports[2], other.path, tmp_path / "u")
    with pytest.raises(ExportError, match=r"step 30, which .*is no delta of"):
        updated(exports[2], paths[1], tmp_path / "u")
    assert not (tmp_path / "u").exists()


def test_averages_are_refused_since_they_change_in_every_row(chain, tmp_path):
    paths, exports = chain
    folder = open_export(exports[1])
    source = folder.manifest.source.model_copy(update={"averaged": True})
    manifest = folder.manifest.model_copy(update={"source": source})
    averaged = type(folder)(folder.path, manifest, folder.checksum)
    with pytest.raises(ExportError, match="holds averages of weights, which change in every row in every step"):
        Update.of(averaged, open_reader(paths[2]))


def test_a_damaged_table_is_not_copied(chain, tmp_path):
    paths, exports = chain
    broken = tmp_path / "broken"
    broken.mkdir()
    for name, data in contents(exports[1]).items():
        (broken / name).write_bytes(data[:-1] + bytes([data[-1] ^ 1]) if name == "tables_0002.safetensors" else data)
    with pytest.raises(ExportError, match=r"tables_0002.safetensors: its bytes are not those that were written"):
        updated(broken, paths[2], tmp_path / "u")
    assert not (tmp_path / "u").exists()


def test_the_command_says_how_many_rows_have_changed(chain, tmp_path, capsys, monkeypatch):
    paths, exports = chain
    monkeypatch.setattr(job, "export_dense", export_dense)
    words = (f"--checkpoint={paths[2]}", f"--output={tmp_path / 'u'}", f"--update={exports[1]}")
    run_export(ExportRequest.of(words))
    said = capsys.readouterr().out
    assert "14 of 370 rows changed since step 20:" in said  # 2 + 7 + 2, and the 3 of cat_4
    assert contents(tmp_path / "u") == contents(exports[2])
