"""The dense part in bfloat16 and int8: against float64 by hand, smaller as a file, and the same for a row in any batch."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from dlrm.config.model import (
    DcnV1Model,
    DeepFmModel,
    DlrmModel,
    FinalMlpModel,
    WideDeepModel,
    WukongModel,
    XDeepFmModel,
)
from dlrm.errors import ExportError
from dlrm.inference.export.dense_program import DensePart, export_dense
from dlrm.inference.exported.manifest import FileRecord, Manifest, SourceRecord, SparseRecord, TableRecord
from dlrm.inference.exported.program import as_function, dump_program, load_program
from dlrm.inference.exported.tiles import MOST_ROWS, TILE_ROWS
from dlrm.inference.quantise.dense import Int8Linear, lowered_dense, rounded_in_sum
from dlrm.inference.raw.record import EncodedRecord, IdColumnRecord
from dlrm.models.build import build_model

MODELS = {
    "dot": DlrmModel(embedding_dim=8, bottom_mlp=[64, 8], top_mlp=[96, 32, 1]),
    "cat": DlrmModel(embedding_dim=8, bottom_mlp=[64, 8], top_mlp=[96, 32, 1], interaction={"kind": "cat"}),
    "dcn": DlrmModel(
        embedding_dim=8, bottom_mlp=[64, 8], top_mlp=[96, 1], interaction={"kind": "dcn", "layers": 2, "rank": 16}
    ),
    "projection": DlrmModel(
        embedding_dim=8,
        bottom_mlp=[64, 8],
        top_mlp=[96, 1],
        interaction={"kind": "projection", "branch1": [32, 16], "branch2": [32, 24]},
    ),
    "towers": DlrmModel(
        embedding_dim=8, bottom_mlp=[64, 8], top_mlp=[96, 32, 1], heads={"kind": "shared_bottom", "tower": [16]}
    ),
    "ple": DlrmModel(
        embedding_dim=8,
        bottom_mlp=[64, 8],
        top_mlp=[96, 32, 1],
        heads={"kind": "ple", "tower": [16], "task_experts": 1},
    ),
    "deepfm": DeepFmModel(embedding_dim=8, deep_mlp=[64, 32]),
    "wide_deep": WideDeepModel(embedding_dim=8, deep_mlp=[64, 32]),
    "dcn_v1": DcnV1Model(embedding_dim=8, cross_layers=2, deep_mlp=[64, 32]),
    "xdeepfm": XDeepFmModel(embedding_dim=8, cin=[12, 12], deep_mlp=[64, 32]),
    "finalmlp": FinalMlpModel(embedding_dim=8, stream1=[64, 12], stream2=[64, 12], gates=[16]),
    "wukong": WukongModel(
        embedding_dim=8, fm_vectors=4, linear_vectors=4, fm_rank=4, fm_mlp=[64], dense_mlp=[32], top_mlp=[64, 32]
    ),
}


class OneFile:
    """An export of which there is nothing but the dense part."""

    path = Path("an_export")

    def __init__(self, manifest: Manifest, data: bytes) -> None:
        self.manifest, self._data = manifest, data

    def read(self, name: str) -> bytes:
        return self._data


def folder_of(config, *, num_dense: int = 5) -> OneFile:
    tasks = ("click", "like") if isinstance(config, DlrmModel) and config.heads.tower else ("label",)
    source = SourceRecord(
        run="", step=0, samples=0, checkpoint="0" * 64, averaged=False, model=config.model_dump(), versions={}
    )
    dense = tuple(f"int_{i}" for i in range(num_dense))
    columns = tuple(IdColumnRecord(name=f"cat_{i}", rows=9) for i in range(4))
    manifest = Manifest(
        dense=dense,
        sparse=tuple(SparseRecord(name=f"cat_{i}", rows=9) for i in range(4)),
        tasks=tasks,
        tables=(TableRecord(dim=config.embedding_dim),) * 4,
        preprocessing=EncodedRecord(dense=dense, sparse=columns, tasks=tasks),
        files=(FileRecord(name="dense.pt2", bytes=0, checksum="0" * 64),),
        source=source,
    )
    model = build_model(config, manifest.columns, seed=3)
    program = export_dense(DensePart(model), dense_features=num_dense, pooled_columns=manifest.pooled_columns)
    return OneFile(manifest, dump_program(program))


def inputs_of(folder: OneFile, rows: int = 512) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    dense_BN = torch.randn(rows, len(folder.manifest.dense), generator=generator)
    return dense_BN, torch.randn(rows, folder.manifest.pooled_columns, generator=generator)


def function_of(folder: OneFile, precision: str):
    return as_function(load_program(lowered_dense(folder, precision), "a program"))


@pytest.mark.parametrize(
    "kind", [kind if kind in ("dot", "dcn") else pytest.param(kind, marks=pytest.mark.slow) for kind in MODELS]
)
@pytest.mark.parametrize("precision", ["bf16", "int8"])
def test_every_model_gives_nearly_the_same_logits_from_half_or_a_quarter_of_the_weights(kind, precision):
    folder = folder_of(MODELS[kind])
    arguments = inputs_of(folder)
    with torch.no_grad():
        expected_BT = function_of(folder, "fp32")(*arguments)
        program = load_program(lowered_dense(folder, precision), "a program")
        found_BT = as_function(program)(*arguments)
    assert found_BT.dtype == torch.float32
    assert 0 < (found_BT - expected_BT).std() < 0.05 * expected_BT.std()
    stored = {"bf16": torch.bfloat16, "int8": torch.int8}[precision]
    sizes = {tensor.dtype: 0 for tensor in program.state_dict.values()}
    for tensor in program.state_dict.values():
        sizes[tensor.dtype] += tensor.numel()
    plain = load_program(folder.read("dense.pt2"), "a program").state_dict
    weights = sum(tensor.numel() for tensor in plain.values() if tensor.is_floating_point())
    assert sizes[stored] > 0.8 * weights
    # what is left in float32: the layer that gives logits, DeepFM's vectors of dense features; scales and biases of int8
    assert sizes[torch.float32] < 0.2 * weights


def test_the_trainers_own_autocast_gives_the_logits_of_bf16(tiny_variants, tiny_validation):
    from dlrm.config.precision import PrecisionConfig
    from dlrm.inference.export.rebuilt import rebuilt_model
    from dlrm.train.precision import lower_dense

    folder = tiny_variants.folder
    model = rebuilt_model(folder, hint="")
    lower_dense(model, PrecisionConfig(dense="bf16"), torch.device("cpu"))
    dense_BN, pooled_BX = tiny_validation.features.dense_BN, torch.randn(512, folder.manifest.pooled_columns)
    with torch.no_grad():
        expected_BT = DensePart(model)(dense_BN, pooled_BX)
        found_BT = tiny_variants.dense("bf16")(dense_BN, pooled_BX)
    torch.testing.assert_close(found_BT, expected_BT, rtol=0, atol=1e-6)


def test_a_layer_of_integers_is_that_by_hand_in_float64():
    generator = torch.Generator().manual_seed(2)
    weight_OI = torch.randn(24, 50, generator=generator)
    bias_O, x_BI = torch.randn(24, generator=generator), torch.randn(40, 50, generator=generator)
    x_BI[3] = 0
    layer = Int8Linear(weight_OI, bias_O)
    integers_OI, scale_O = layer.weight.double().numpy(), layer.scale.double().numpy()
    assert integers_OI.min() >= -63
    assert integers_OI.max() <= 63
    np.testing.assert_allclose(integers_OI * scale_O[:, None], weight_OI, atol=float(scale_O.max()) * 1.001)
    steps_B1 = np.maximum(x_BI.abs().amax(1, keepdim=True).double().numpy(), 1e-30) / 127
    inputs_BI = np.rint((x_BI / torch.from_numpy(steps_B1).float()).double().numpy())
    expected_BO = (inputs_BI @ integers_OI.T) * steps_B1 * scale_O + bias_O.double().numpy()
    np.testing.assert_allclose(layer(x_BI).numpy(), expected_BO, rtol=1e-5, atol=1e-5)
    assert torch.equal(layer(x_BI)[3], bias_O)


def test_roundings_of_a_row_add_up_to_nothing():
    x_RC = torch.randn(200, 33, generator=torch.Generator().manual_seed(4)) * 20
    rounded_RC = rounded_in_sum(x_RC)
    assert torch.equal(rounded_RC, rounded_RC.round())
    assert ((rounded_RC - x_RC).abs() < 1).all()
    assert ((rounded_RC - x_RC).sum(1).abs() <= 0.5 + 1e-4).all()
    assert ((x_RC.round() - x_RC).sum(1).abs() > 0.5).any()
    assert ((rounded_RC - x_RC).abs() > 0.5).float().mean() < 0.1


@pytest.mark.parametrize(("kind", "threads"), [("dot", 1), ("dcn", 2)])
@pytest.mark.parametrize("precision", ["bf16", "int8"])
def test_a_row_has_the_same_bits_in_every_multiple_of_the_tile(kind, precision, threads):
    folder = folder_of(MODELS[kind])
    dense_BN, pooled_BX = inputs_of(folder, MOST_ROWS)
    dense = function_of(folder, precision)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        with torch.no_grad():
            together = dense(dense_BN, pooled_BX)
            for size in (TILE_ROWS, 2 * TILE_ROWS, 3 * TILE_ROWS, 8 * TILE_ROWS):
                starts = range(0, MOST_ROWS - size + 1, size)
                apart = torch.cat([dense(dense_BN[i : i + size], pooled_BX[i : i + size]) for i in starts])
                assert torch.equal(apart, together[: len(apart)])
    finally:
        torch.set_num_threads(before)


SUMS = """
import torch
for inputs, outputs in ((13, 128), (367, 8), (512, 2), (3456, 512)):
    for x_BI, w_OI in (
        (torch.full((32, inputs), 127), torch.full((outputs, inputs), 63)),
        (torch.full((32, inputs), -127), torch.full((outputs, inputs), 63)),
        (torch.randint(-127, 128, (32, inputs)), torch.randint(-63, 64, (outputs, inputs))),
    ):
        found = torch._int_mm(x_BI.to(torch.int8), w_OI.to(torch.int8).t())
        assert torch.equal(found.double(), x_BI.double() @ w_OI.double().t()), (inputs, outputs)
"""


@pytest.mark.parametrize("instructions", ["AVX2", "AVX512_CORE"])
def test_sums_of_products_are_exact_with_every_cpus_instructions(instructions):
    """With 127 in the place of 63 they are not, where there is no VNNI."""
    environment = {**os.environ, "ONEDNN_MAX_CPU_ISA": instructions}
    subprocess.run([sys.executable, "-c", SUMS], env=environment, check=True)


def test_a_model_that_is_not_known_here_is_refused_with_what_to_do():
    folder = folder_of(MODELS["dot"])
    source = folder.manifest.source.model_copy(update={"model": {"kind": "other"}})
    other = OneFile(folder.manifest.model_copy(update={"source": source}), folder.read("dense.pt2"))
    with pytest.raises(
        ExportError, match=r"its model cannot be built here .*; quantise with the version that exported"
    ):
        lowered_dense(other, "int8")
