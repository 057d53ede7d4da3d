import pytest

from dlrm.inference.serve.models import ServedModel
from tests.support.serving import ServerHere


@pytest.fixture(scope="session")
def tiny_model(tiny_export):
    return ServedModel.load("default", str(tiny_export), compiled=False)


@pytest.fixture(scope="module")
def server(tiny_model):
    """A server with one model of ordinary limits but for those that tests want to reach."""
    with ServerHere({"default": tiny_model}, max_request_rows=300, max_body_bytes=100_000) as running:
        yield running
