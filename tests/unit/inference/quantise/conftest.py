import pytest

from dlrm.inference.exported.folder import open_export
from dlrm.inference.quantise.scores import read_scored
from dlrm.inference.quantise.variants import Variants
from tests.support.exports import dataset_of


@pytest.fixture(scope="session")
def tiny_variants(tiny_export):
    return Variants(open_export(tiny_export))


@pytest.fixture(scope="session")
def tiny_validation(tiny_run, tiny_variants):
    """512 validation samples."""
    schema = tiny_variants.folder.manifest.columns
    return read_scored(dataset_of(tiny_run).validation, schema, max_rows=10_000, split="validation")
