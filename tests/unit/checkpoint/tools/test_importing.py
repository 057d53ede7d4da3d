"""A model of facebookresearch/dlrm's trainer and what is made of its file predict the same."""

import json
import pickle
import struct
from pathlib import Path

import pytest
import safetensors.torch
import torch

from dlrm.checkpoint.load import load_tensors
from dlrm.checkpoint.stored import find_damage, open_checkpoint
from dlrm.checkpoint.tensors import GlobalTensor, model_shapes
from dlrm.checkpoint.tools.translation import translate
from dlrm.command.arguments import parse
from dlrm.config.model import DlrmModel
from dlrm.errors import CheckpointError, CheckpointMismatchError
from dlrm.models.build import build_model
from dlrm.schema import Schema, SparseFeature
from tests.unit.checkpoint.states import small_chunks
from tests.unit.checkpoint.tools.runs import command
from tests.unit.checkpoint.tools.torchrec_models import (
    INTERACTIONS,
    OPTIONS,
    SCHEMA,
    config_of,
    some_batch,
    their_logits,
    their_model,
)  # fmt: skip


def import_file(capsys, file, output, kind="dot", *options):
    return command(capsys, "import", file, "--output", output, *OPTIONS, *INTERACTIONS[kind], *options)


def our_logits(checkpoint, config, batch):
    """Of this project's model with every weight out of the checkpoint."""
    model = build_model(config.model, SCHEMA, seed=99, tables_device="cpu")
    tensors = []
    for name, weight in model.named_parameters():
        if name.startswith("tables."):
            name = f"tables.{name.split('.')[-2]}.weight"
        tensors.append(GlobalTensor.of(name, weight))
    assert load_tensors(checkpoint, tensors) == []
    with torch.no_grad():
        return model.eval()(*batch)


@pytest.mark.parametrize("kind", INTERACTIONS)
@pytest.mark.parametrize("form", ["torch", "safetensors", "wrapped"])
def test_predictions_are_the_same(kind, form, tmp_path, capsys):
    model, batch = their_model(kind), some_batch()
    state = model.state_dict()
    if form == "torch":
        torch.save(state, tmp_path / "file")
    elif form == "safetensors":
        safetensors.torch.save_file(state, tmp_path / "file")
    else:  # as wrappers name things, beside other things
        wrapped = {f"_dmp_wrapped_module.module.{name}": value for name, value in state.items()}
        torch.save({"epoch": 3, "model_state_dict": wrapped}, tmp_path / "file")
    shown = import_file(capsys, tmp_path / "file", tmp_path / "out", kind)
    assert "imported 12 tables and" in shown
    assert ("another order" in shown) == (form == "safetensors")
    checkpoint = open_checkpoint(tmp_path / "out" / "step_00000000")
    assert find_damage(checkpoint) == []
    expected = their_logits(model, batch)
    found = our_logits(checkpoint, config_of(kind), batch)
    assert expected.std() > 0.1
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def test_the_checkpoint_is_of_step_0_with_configuration_and_without_optimizer(tmp_path, capsys):
    torch.save(their_model("dcn").state_dict(), tmp_path / "weights.pt")
    import_file(capsys, tmp_path / "weights.pt", tmp_path / "out", "dcn")
    checkpoint = open_checkpoint(tmp_path / "out" / "step_00000000")
    assert checkpoint.step == 0
    assert "position" not in checkpoint.metadata
    assert checkpoint.metadata["reason"] == "import of weights.pt"
    assert checkpoint.metadata["config"]["model"]["interaction"] == {"kind": "dcn", "layers": 2, "rank": 6}
    assert not {"state_dict", "output"} & set(checkpoint.metadata["config"])
    assert set(checkpoint.tensors) == set(model_shapes(build_model(config_of("dcn").model, SCHEMA, seed=0)))
    assert "step_00000000" in command(capsys, "list", tmp_path / "out")


def test_large_weights_go_into_chunks_and_files_of_bounded_size(tmp_path, monkeypatch, capsys):
    small_chunks(monkeypatch, chunk_bytes=200, file_bytes=1000)
    model, batch = their_model("projection"), some_batch()
    torch.save(model.state_dict(), tmp_path / "file")
    import_file(capsys, tmp_path / "file", tmp_path / "out", "projection")
    checkpoint = open_checkpoint(tmp_path / "out" / "step_00000000")
    assert len(checkpoint.manifest.files) > 10
    assert max(file.bytes - file.chunks[0].range[0] for file in checkpoint.manifest.files) <= 1000
    torch.testing.assert_close(our_logits(checkpoint, config_of("projection"), batch), their_logits(model, batch))


def test_half_precision_weights_become_float32_and_that_is_said(tmp_path, capsys):
    model = their_model("dot").half()
    torch.save(model.state_dict(), tmp_path / "file")
    shown = import_file(capsys, tmp_path / "file", tmp_path / "out")
    assert "tables.cat_3.weight was float16 and is float32 now" in shown
    found = our_logits(open_checkpoint(tmp_path / "out" / "step_00000000"), config_of("dot"), some_batch())
    torch.testing.assert_close(found, their_logits(model.float(), some_batch()), rtol=1e-5, atol=1e-5)


def test_tables_in_another_order_are_pointed_out(tmp_path, capsys):
    torch.save(their_model("dot", order=[1, 0, *range(2, 12)]).state_dict(), tmp_path / "file")
    assert "lists the tables in another order" in import_file(capsys, tmp_path / "file", tmp_path / "out")


def test_every_difference_is_listed_and_nothing_is_written(tmp_path, capsys):
    state = their_model("dot").state_dict()
    tables = "model.sparse_arch.embedding_bag_collection.embedding_bags"
    del state[f"{tables}.t_cat_1.weight"]
    state[f"{tables}.t_cat_77.weight"] = torch.zeros(3, 8)
    state[f"{tables}.t_cat_2.weight"] = torch.zeros(51, 8)
    state["model.over_arch.model.1.bias"] = torch.zeros(1, dtype=torch.int64)
    state["model.dense_arch.model._mlp.0._linear.bias"] = "evil\x1b[31m"
    torch.save(state, tmp_path / "file")
    with pytest.raises(CheckpointMismatchError) as caught:
        import_file(capsys, tmp_path / "file", tmp_path / "out")
    said = "\n".join(caught.value.differences)
    assert len(caught.value.differences) == 5
    for part in (
        "t_cat_1.weight (tables.cat_1.weight): is not in the file",
        "t_cat_2.weight (tables.cat_2.weight): has shape [51, 8] in the file, [50, 8] here",
        "over_arch.model.1.bias (top_mlp.linears.2.bias): is torch.int64",
        "dense_arch.model._mlp.0._linear.bias (bottom_mlp.linears.0.bias): is a str",
        "t_cat_77.weight is in the file, and nothing of this model",
    ):
        assert part in said
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("theirs", "options", "said"),
    [
        ("dcn", ["model.interaction.kind=dot"], "it is a DLRM_DCN, which is model.interaction.kind dcn, not dot"),
        ("dot", INTERACTIONS["dcn"], "it is a DLRM, which is model.interaction.kind dot, not dcn"),
        ("dot", ["model.interaction.kind=cat"], "no model there has the interaction cat"),
        ("dot", ["model.interaction.self_interaction=true"], "no model there multiplies a vector with itself"),
        ("dot", ["model.pooling=mean"], "model.pooling is mean, tables there sum"),
        ("dot", ["model.tables.cat_4.pooling=mean"], "model.tables.cat_4.pooling is mean, tables there sum"),
        ("dot", ["model.top_mlp=1"], "model.top_mlp has one layer"),
    ],
)
def test_models_that_cannot_agree_are_refused_in_words(theirs, options, said, tmp_path, capsys):
    torch.save(their_model(theirs).state_dict(), tmp_path / "file")
    with pytest.raises(CheckpointMismatchError, match=said):
        command(capsys, "import", tmp_path / "file", "--output", tmp_path / "out", *OPTIONS, *options)


def test_a_checkpoint_of_step_0_is_not_replaced(tmp_path, capsys):
    torch.save(their_model("dot").state_dict(), tmp_path / "file")
    import_file(capsys, tmp_path / "file", tmp_path / "out")
    before = (tmp_path / "out" / "step_00000000" / "manifest.json").read_bytes()
    with pytest.raises(CheckpointError, match="is there already, and nothing is overwritten"):
        import_file(capsys, tmp_path / "file", tmp_path / "out")
    assert (tmp_path / "out" / "step_00000000" / "manifest.json").read_bytes() == before
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["step_00000000"]


def touch(path):
    Path(path).touch()


class Evil:
    """Whoever unpickles it makes a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return touch, (self.path,)


def test_nothing_in_a_file_is_run(tmp_path, capsys):
    evil = Evil(str(tmp_path / "it ran"))
    torch.save({"weight": evil}, tmp_path / "evil.pt")
    (tmp_path / "plain.pkl").write_bytes(pickle.dumps(evil))
    torch.save({"w": torch.zeros(2)}, tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    whole = tmp_path / "whole.pt"
    torch.save(their_model("dot").state_dict(), whole)
    (tmp_path / "half.pt").write_bytes(whole.read_bytes()[:3000])
    torch.save([torch.zeros(3)], tmp_path / "list.pt")
    (tmp_path / "empty").write_bytes(b"")
    for name, why in (
        ("evil.pt", "holds more than plain tensors"),
        ("plain.pkl", "is neither a file of torch.save nor safetensors"),
        ("old.pt", "is neither a file of torch.save nor safetensors"),
        ("half.pt", "holds more than plain tensors, or is damaged"),
        ("list.pt", "holds no state dict"),
        ("empty", "is neither"),
        ("none", "cannot be read"),
        ("", "cannot be read"),
    ):
        with pytest.raises(CheckpointError, match=why) as caught:
            import_file(capsys, tmp_path / name, tmp_path / "out")
        assert "\n" not in str(caught.value)
    assert not (tmp_path / "it ran").exists()
    assert not (tmp_path / "out").exists()


def hostile_headers():
    entry = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}
    for change in (
        {"dtype": "F33"}, {"dtype": ["F32"]}, {"shape": [3]}, {"shape": [-2]}, {"shape": "2"}, {"shape": [2.0]},
        {"shape": [True, 2]}, {"data_offsets": [0, 9]}, {"data_offsets": [8, 16]}, {"data_offsets": [-8, 0]},
        {"data_offsets": [8, 0]}, {"data_offsets": [0]}, {"data_offsets": None}, {"shape": [2**62, 4]},
    ):  # fmt: skip
        yield json.dumps({"w": entry | change}).encode()
    yield from (b"[]", b"{", b"null", b"[" * 100_000, b'{"w": 1}', b'\xff{"a": 1}')


@pytest.mark.parametrize("header", list(hostile_headers()))
def test_hostile_safetensors_are_one_line(header, tmp_path, capsys):
    (tmp_path / "file").write_bytes(struct.pack("<Q", len(header)) + header + bytes(8))
    with pytest.raises(CheckpointError, match=r"is neither a file of torch\.save nor safetensors") as caught:
        import_file(capsys, tmp_path / "file", tmp_path / "out")
    assert len(str(caught.value)) < 600


@pytest.mark.parametrize("length", [0, 1, 17, 2**40, 2**64 - 1])
def test_a_header_longer_than_its_file_is_refused(length, tmp_path, capsys):
    (tmp_path / "file").write_bytes(struct.pack("<Q", length) + b"{}      ")
    with pytest.raises(CheckpointError, match="does not begin with the length of a header"):
        import_file(capsys, tmp_path / "file", tmp_path / "out")


def test_the_configuration_may_come_from_a_file(tmp_path):
    (tmp_path / "a.yaml").write_text("model: {embedding_dim: 32, bottom_mlp: [32]}")
    words = ["checkpoint", "import", "w.pt", "--config", str(tmp_path / "a.yaml"), "--output", "out"]
    config = parse(words).config()
    assert (config.state_dict, config.output, config.model.embedding_dim) == ("w.pt", "out", 32)


def test_tables_may_have_names_that_modules_cannot_and_models_there_have_dense_features():
    tables = "sparse_arch.embedding_bag_collection.embedding_bags."
    shapes = {
        f"{tables}t_type.weight": (5, 4),
        f"{tables}t_items.weight": (6, 4),
        "dense_arch.model._mlp.0._linear.weight": (4, 1),
        "dense_arch.model._mlp.0._linear.bias": (4,),
        "over_arch.model.0._mlp.0._linear.weight": (2, 4 + 3),
        "over_arch.model.0._mlp.0._linear.bias": (2,),
        "over_arch.model.1.weight": (1, 2),
        "over_arch.model.1.bias": (1,),
    }
    found = {name: torch.randn(shape) for name, shape in shapes.items()}
    sparse = (SparseFeature("type", 5), SparseFeature("items", 6))
    config = DlrmModel(embedding_dim=4, bottom_mlp=(4,), top_mlp=(2, 1))
    translated, differences = translate(found, config, Schema(("price",), sparse))
    assert differences == []
    for table in ("type", "items"):
        assert torch.equal(translated.weights[f"tables.{table}.weight"], found[f"{tables}t_{table}.weight"])
    _, differences = translate(found, DlrmModel(embedding_dim=4, top_mlp=(2, 1)), Schema((), sparse))
    assert differences == ["the data have no dense features, every model there has a bottom MLP on some"]
