"""What an export answers: the trainer's numbers, the same for a row whatever it is asked with."""

import subprocess
import sys

import numpy as np
import pytest
import torch
from torch import nn

from dlrm.inference.exported.manifest import Manifest, PieceRecord, SourceRecord, SparseRecord, TableRecord
from dlrm.inference.exported.predictor import Predictor, open_predictor
from dlrm.inference.exported.tables import Lookup, starts_of_tables
from dlrm.inference.exported.tiles import MOST_ROWS, TILE_ROWS
from dlrm.inference.features import Features
from dlrm.inference.raw.record import EncodedRecord, IdColumnRecord
from tests.support.exports import TrainersModel, export


def test_logits_are_the_trainers_within_1e_6_with_averaged_weights(tiny_run, tiny_predictor, tiny_samples):
    expected_BT = TrainersModel(tiny_run, "average.").logits(tiny_samples)
    found_BT = tiny_predictor.logits(Features.of(tiny_samples))
    assert tiny_predictor.manifest.source.averaged
    torch.testing.assert_close(found_BT, expected_BT, rtol=0, atol=1e-6)
    assert found_BT.std() > 0.1


def test_plain_weights_are_exported_where_that_is_asked_for(tiny_run, tiny_samples, tmp_path):
    export(tiny_run, tmp_path / "plain", average=False)
    found_BT = open_predictor(tmp_path / "plain").logits(Features.of(tiny_samples))
    torch.testing.assert_close(found_BT, TrainersModel(tiny_run).logits(tiny_samples), rtol=0, atol=1e-6)
    averaged_BT = TrainersModel(tiny_run, "average.").logits(tiny_samples)
    assert (found_BT - averaged_BT).abs().max() > 1e-3


def test_probabilities_are_the_logits_in_float64_by_hand(tiny_predictor, tiny_samples):
    features = Features.of(tiny_samples)
    logits = tiny_predictor.logits(features).double().numpy()
    np.testing.assert_allclose(tiny_predictor.probabilities(features), 1 / (1 + np.exp(-logits)), atol=1e-7)


@pytest.mark.parametrize("size", [1, 2, 3, 7, 31, 32, 33, 100, 1000, 1025])
def test_a_rows_probability_does_not_depend_on_the_rows_it_is_asked_with(tiny_predictor, tiny_samples, size):
    features = Features.of(tiny_samples)
    together = tiny_predictor.probabilities(features)
    parts = [
        tiny_predictor.probabilities(features[i : i + size]) for i in range(0, min(len(features), 40 * size), size)
    ]
    apart = torch.cat(parts)
    assert torch.equal(apart, together[: len(apart)])


@pytest.mark.parametrize(("inputs", "hidden"), [(13, 512), (415, 1024), (3456, 512), (768, 1), (1024, 1024)])
def test_kernels_give_a_row_the_same_bits_in_every_multiple_of_the_tile(inputs, hidden):
    """What :data:`TILE_ROWS` stands on, with the layers of the field's models, in one thread as answers are computed."""
    linear = nn.Linear(inputs, hidden)
    rows_BN = torch.randn(MOST_ROWS, inputs)
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with torch.no_grad():
            together = linear(rows_BN)
            for size in (TILE_ROWS, 2 * TILE_ROWS, 3 * TILE_ROWS, 8 * TILE_ROWS):
                apart = torch.cat([linear(rows_BN[i : i + size]) for i in range(0, MOST_ROWS - size + 1, size)])
                assert torch.equal(apart, together[: len(apart)])
    finally:
        torch.set_num_threads(before)


def test_tables_in_many_files_and_pieces_give_the_same(tiny_run, tiny_predictor, tiny_samples, tmp_path):
    manifest = export(tiny_run, tmp_path / "cut", max_file_bytes=1000)
    files = [file for file in manifest.files if file.pieces]
    assert len(files) > 8
    assert max(file.bytes for file in files) < 3000
    features = Features.of(tiny_samples)
    assert torch.equal(open_predictor(tmp_path / "cut").logits(features), tiny_predictor.logits(features))


def test_no_rows_give_no_answers(tiny_predictor, tiny_samples):
    assert tiny_predictor.logits(Features.of(tiny_samples)[:0]).shape == (0, 1)


def lookup_by_hand(manifest: Manifest, weights: list[torch.Tensor], features: Features) -> torch.Tensor:
    """In float64, bag by bag."""
    lengths_BF = features.lengths_BF
    rows = []
    for b in range(len(features)):
        row, first = [], 0
        for f, (feature, table) in enumerate(zip(manifest.sparse, manifest.tables, strict=True)):
            length = feature.hotness if lengths_BF is None else int(lengths_BF[b, f])
            bag = weights[f][features.ids_BS[b, first : first + length].long()].double()
            total = bag.sum(0)
            row.append(total / length if table.pooling == "mean" and length else total)
            first += feature.hotness
        rows.append(torch.cat(row))
    return torch.stack(rows)


@pytest.mark.parametrize("wide", [False, True], ids=["int32", "int64"])
@pytest.mark.parametrize("ragged", [False, True], ids=["full", "ragged"])
def test_pooled_embeddings_are_those_by_hand(ragged, wide):
    generator = torch.Generator().manual_seed(3)
    sizes = [(11, 4, 3), (50, 8, 1), (5, 12, 4)]  # rows, dim, hotness
    tables = tuple(
        TableRecord(dim=dim, pooling=kind) for (_, dim, _), kind in zip(sizes, ["mean", "sum", "mean"], strict=True)
    )
    sparse = tuple(SparseRecord(name=f"cat_{i}", rows=n, hotness=hot) for i, (n, _, hot) in enumerate(sizes))
    columns = tuple(
        IdColumnRecord(name=f"cat_{i}", rows=n, hotness=hot, lists=hot > 1) for i, (n, _, hot) in enumerate(sizes)
    )
    source = SourceRecord(run="", step=0, samples=0, checkpoint="0" * 64, averaged=False, model={}, versions={})
    manifest = Manifest(
        dense=(),
        sparse=sparse,
        tasks=("label",),
        tables=tables,
        preprocessing=EncodedRecord(dense=(), sparse=columns, tasks=("label",)),
        files=(),
        source=source,
    )
    weights = [torch.randn(rows, dim, generator=generator) for rows, dim, _ in sizes]
    starts, total = starts_of_tables(manifest)
    memory = torch.zeros(total, dtype=torch.uint8)
    for start, weight in zip(starts, weights, strict=True):
        memory[start : start + weight.numel() * 4] = weight.view(torch.uint8).flatten()
    ids = [torch.randint(0, rows, (20, hot), generator=generator) for rows, _, hot in sizes]
    lengths = [torch.randint(0, hot + 1, (20, 1), generator=generator) for _, _, hot in sizes]
    features = Features(
        torch.zeros(20, 0),
        torch.cat(ids, 1).to(torch.int64 if wide else torch.int32),
        torch.cat(lengths, 1).int() if ragged else None,
    )
    found = Lookup(manifest, memory)(features, 32)
    torch.testing.assert_close(found[:20].double(), lookup_by_hand(manifest, weights, features), rtol=0, atol=1e-6)
    assert not found[20:].any()


def test_a_reader_of_exports_needs_neither_torchrec_nor_the_trainer(tiny_export):
    program = (
        "import sys; from dlrm.inference.exported.predictor import open_predictor; "
        f"open_predictor({str(tiny_export)!r}); "
        "print([name for name in sys.modules if name.split('.')[0] == 'torchrec' or "
        "name.startswith(('dlrm.train', 'dlrm.models', 'dlrm.sharding', 'dlrm.optim', 'dlrm.run'))])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_pieces_of_a_table_of_an_export_have_names_of_their_own():
    piece = PieceRecord(table=0, first_row=5, rows=2)
    manifest = Manifest.model_construct(sparse=(SparseRecord(name="user.id", rows=7),), tables=(TableRecord(dim=4),))
    assert manifest.piece_name(piece) == "user.id@5"
    assert isinstance(Predictor, type)
