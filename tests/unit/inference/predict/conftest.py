import pytest

from dlrm.inference.exported.predictor import load_predictor
from dlrm.inference.predict import job


@pytest.fixture(scope="package")
def loaded():
    """Models that were loaded, by checksum."""
    return {}


@pytest.fixture(autouse=True)
def load_once(loaded, monkeypatch):
    """A model is loaded once for all tests, since that takes a second."""

    def load(folder, *, compiled):
        if folder.checksum not in loaded:
            loaded[folder.checksum] = load_predictor(folder, compiled=compiled)
        return loaded[folder.checksum]

    monkeypatch.setattr(job, "load_predictor", load)
