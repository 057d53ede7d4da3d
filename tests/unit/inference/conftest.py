import pytest

from dlrm.inference.exported.predictor import open_predictor
from tests.support.exports import dataset_of, export, train


@pytest.fixture(scope="session")
def tiny_run(tmp_path_factory):
    """A run with averages of its weights, and one table that is averaged over its bag."""
    options = ["--train.average_decay=0.9", '--model.tables={"cat_1": {"pooling": "mean"}}']
    return train(tmp_path_factory.mktemp("tiny"), *options)


@pytest.fixture(scope="session")
def tiny_export(tiny_run, tmp_path_factory):
    path = tmp_path_factory.mktemp("exports") / "tiny"
    export(tiny_run, path)
    return path


@pytest.fixture(scope="session")
def tiny_samples(tiny_run):
    """2,048 test samples."""
    import torch

    return dataset_of(tiny_run).test.read(torch.arange(2048))


@pytest.fixture(scope="session")
def tiny_predictor(tiny_export):
    return open_predictor(tiny_export)
