"""Weights of samples beside packed files."""

import numpy as np
import pytest
import torch

from dlrm.config.data import PackedData
from dlrm.data.check import SampleCheck
from dlrm.data.packed.dataset import packed_dataset
from dlrm.data.packed.naming import read_manifest
from dlrm.dataset_tools.inspect.verify import verify
from dlrm.errors import DataError
from tests.unit.data.packed.packed_files import ROWS, write_days

SIZES = (50, 40, 30)


def written(folder, *, manifest=True, shape=(-1,), change=None, **options):
    write_days(folder, SIZES, manifest=manifest)
    draw = np.random.default_rng(3)
    weights = [draw.random(size).astype(np.float32) for size in SIZES]
    if change:
        change(weights)
    for day, weights_M in enumerate(weights):
        np.save(folder / f"day_{day}_weights.npy", weights_M.reshape(shape))
    return weights, PackedData(path=str(folder), rows=ROWS, sample_weights=True, **options)


@pytest.mark.parametrize("shape", [(-1,), (-1, 1)])
@pytest.mark.parametrize("manifest", [True, False])
def test_each_sample_has_its_weight_and_the_file_is_one_of_the_data(tmp_path, manifest, shape):
    weights, config = written(tmp_path, manifest=manifest, shape=shape)
    source = packed_dataset(config).train
    index = np.random.default_rng(1).permutation(90)
    found = source.read(torch.from_numpy(index))
    assert found.weights_B.tolist() == np.concatenate(weights[:2])[index].tolist()
    assert source.read(torch.arange(30, 70)).weights_B.tolist() == np.concatenate(weights[:2])[30:70].tolist()
    assert "day_1_weights.npy" in [file.name for file in source.fingerprint()]
    without = packed_dataset(config.model_copy(update={"sample_weights": False})).train
    assert without.read(torch.arange(3)).weights_B is None
    assert "day_1_weights.npy" not in [file.name for file in without.fingerprint()]


def test_a_bad_weight_is_named_by_training_and_by_verify(tmp_path):
    def spoil(weights):
        weights[1][7] = -1

    _, config = written(tmp_path, change=spoil)
    source = packed_dataset(config).train
    index_B = torch.arange(90)
    with pytest.raises(DataError, match="the weight -1 is negative") as error:
        SampleCheck(source)(source.read(index_B), index_B)
    expected = (str(tmp_path / "day_1_weights.npy"), 8, "weight")
    assert (error.value.path, error.value.row, error.value.column) == expected
    (fault,) = verify(str(tmp_path), read_manifest(str(tmp_path)), lambda nbytes: None).faults
    assert (fault.path, fault.row, fault.column) == expected
    skipping = packed_dataset(config.model_copy(update={"bad_rows": "skip"})).train
    assert SampleCheck(skipping)(skipping.read(index_B), index_B).weights_B[57] == 0


def test_files_that_are_missing_or_of_another_shape_are_said_before_training(tmp_path):
    _, config = written(tmp_path)
    np.save(tmp_path / "day_1_weights.npy", np.ones((40, 2), np.float32))
    with pytest.raises(DataError, match="has 2 columns, and a sample has one weight"):
        packed_dataset(config)
    np.save(tmp_path / "day_1_weights.npy", np.ones(40))
    with pytest.raises(DataError, match="type '<f8', where float32"):
        packed_dataset(config)
    (tmp_path / "day_1_weights.npy").unlink()
    with pytest.raises(DataError, match=r"is missing \(the weights file of part day_1"):
        packed_dataset(config)
