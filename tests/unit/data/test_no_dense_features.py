"""Every source of samples can be without dense features, and says so where its format cannot."""

import numpy as np
import pytest
import torch

from dlrm.config import load_config
from dlrm.config.data import PackedData, PlantedData, RandomData
from dlrm.config.load import load_options
from dlrm.config.prepare import PreprocessConfig
from dlrm.data.check import SampleCheck
from dlrm.data.loader import BatchLoader
from dlrm.data.order import SampleOrder
from dlrm.data.packed.dataset import packed_dataset
from dlrm.data.synthetic.noise import noise_dataset
from dlrm.data.synthetic.planted import planted_dataset
from dlrm.errors import ConfigError
from tests.unit.data.packed.packed_files import ROWS, some_part, write_part
from tests.unit.data.parquet import parquet_files

INDEX = torch.tensor([5, 2, 30, 31])
ROWS_OF_PLANTED = (50, 7, 300)


def check(source):
    """Samples without dense values pass the checks, in any portions, and make batches."""
    samples = SampleCheck(source)(source.read(INDEX), INDEX)
    assert samples.dense_BN.shape == (4, 0)
    assert samples.dense_BN.dtype == torch.float32
    one_by_one = [source.read(INDEX[i : i + 1]) for i in range(4)]
    assert torch.equal(torch.cat([one.ids_BS for one in one_by_one]), samples.ids_BS)
    assert torch.equal(torch.cat([one.labels_BT[:, 0] for one in one_by_one]), samples.labels_BT[:, 0])
    loader = BatchLoader(source, SampleOrder(source.num_samples, global_batch_size=8), rank=0, world_size=1)
    assert all(batch.dense.shape == (8, 0) for batch in loader.batches(0, 0, loader.order.num_batches))
    return samples


@pytest.mark.parametrize("ids", [{"kind": "uniform"}, {"kind": "zipf"}])
def test_random_samples(ids):
    config = RandomData.model_validate({"train_samples": 40, "num_dense": 0, "rows": (50, 7), "ids": ids})
    samples = check(noise_dataset(config).train)
    assert (samples.ids_BS < torch.tensor([50, 7])).all()


def test_planted_samples_have_the_click_rate_and_the_signal_that_are_asked_for():
    options = {"train_samples": 4_000, "rows": ROWS_OF_PLANTED, "click_rate": 0.25}
    source = planted_dataset(PlantedData(num_dense=0, **options)).train
    check(source)
    everything = torch.arange(4_000)
    logits, labels = source.true_logits(everything)[:, 0], source.read(everything).labels_BT[:, 0]
    assert logits.sigmoid().mean().item() == pytest.approx(0.25, abs=0.02)
    assert labels.mean().item() == pytest.approx(logits.sigmoid().mean().item(), abs=0.03)
    assert logits.std().item() == pytest.approx(1.7, abs=0.15)


@pytest.mark.parametrize("multi_hot", [False, True])
def test_packed_files(tmp_path, multi_hot):
    part = some_part(40)
    part.dense_MN = part.dense_MN[:, :0]
    write_part(tmp_path, "all", part, multi_hot=multi_hot)
    options = {"multi_hot": {"kind": "files"}} if multi_hot else {}
    config = {"path": str(tmp_path), "rows": ROWS, "split": {"train": "all"}} | options
    source = packed_dataset(PackedData.model_validate(config)).train
    assert source.schema.dense == ()
    expected = np.concatenate(part.multi_hot, axis=1) if multi_hot else part.sparse_MF
    assert check(source).ids_BS.tolist() == expected[INDEX.numpy()].tolist()
    runs = source.read(torch.arange(40))
    assert runs.dense_BN.shape == (40, 0)
    assert runs.ids_BS.tolist() == expected.tolist()


def test_parquet_files(tmp_path):
    parquet_files.write(tmp_path / "train.parquet", parquet_files.columns(40))
    samples = check(parquet_files.dataset(tmp_path, dense=[]).train)
    assert samples.ids_BS.tolist() == [[i, i] for i in INDEX.tolist()]


@pytest.mark.parametrize("words", [["--data.dense", ""], ["--data.dense", "[]"], ["--data.dense="], ["data.dense=[]"]])
def test_no_dense_columns_on_the_command_line(words):
    parquet = ["data.kind=parquet", "data.path=x", "data.sparse=a", "data.rows=9"]
    assert load_config(None, [*parquet, *words]).data.dense == ()
    with pytest.raises(ConfigError, match=r"data\.dense: is required and was not given"):
        load_config(None, parquet)


def test_no_dense_columns_in_a_file(tmp_path):
    for dense in ("[]", ""):
        path = tmp_path / "options.yaml"
        path.write_text(f"data: {{kind: parquet, path: x, sparse: [a], rows: [9], dense: {dense}}}")
        assert load_config(path).data.dense == ()


@pytest.mark.parametrize(
    ("root", "words"),
    [
        (load_config, ["data.kind=criteo_tsv", "data.paths=x", "data.num_dense=0"]),
        (lambda path, words: load_options(PreprocessConfig, path, words), ["input=x", "output=y", "num_dense=0"]),
    ],
)
def test_rows_of_criteos_format_have_integers(root, words):
    with pytest.raises(ConfigError, match="num_dense: is 0, but rows of Criteo's format have integers") as caught:
        root(None, words)
    assert str(caught.value).isprintable()
