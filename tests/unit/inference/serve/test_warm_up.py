"""An export is asked once before it is served, whatever its example looks like."""

from types import SimpleNamespace

import torch

from dlrm.inference.raw import Preprocessing
from dlrm.inference.raw.record import CriteoRecord, DenseColumnRecord, DenseRecord, HashedRecord
from dlrm.inference.serve import models


def test_an_export_whose_example_has_a_missing_category_is_served(monkeypatch):
    """Its table is smaller than what categories are hashed over: of them, only a missing one is surely in it."""
    record = CriteoRecord(
        tasks=("label",),
        dense=DenseRecord(
            logarithm="numpy", minimum=-2.0, shift=3.0, columns=(DenseColumnRecord(name="int_0", missing=1.0),)
        ),
        categories=(HashedRecord(name="cat_0", rows=1000),),
        rows=(4,),
    )
    preprocessing = Preprocessing.load(record, {})
    assert preprocessing.example() == {"int_0": 1, "cat_0": None}
    predictor = SimpleNamespace(
        preprocessing=preprocessing,
        schema=preprocessing.schema,
        probabilities=lambda features: torch.full((len(features), 1), 0.5),
    )
    monkeypatch.setattr(models, "load_predictor", lambda *_, **__: predictor)
    assert models.load_version(None, "default", compiled=False).preprocessing is preprocessing
