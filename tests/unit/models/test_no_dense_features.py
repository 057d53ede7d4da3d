"""Data without dense features: no bottom MLP, and the tables interact among themselves."""

import itertools

import numpy as np
import pytest
import torch

from dlrm.config.model import DlrmModel
from dlrm.errors import ConfigError
from dlrm.models import DLRM
from dlrm.schema import Schema
from tests.unit.models.helpers import cpu_model, ragged_ids

SCHEMA = Schema.numbered(0, rows=[40, 7, 100], hotness=[1, 3, 2])
DIM = 8
INTERACTIONS = {
    "dot": {"kind": "dot"},
    "dot with itself": {"kind": "dot", "self_interaction": True},
    "cat": {"kind": "cat"},
    "dcn": {"kind": "dcn", "layers": 2, "rank": 5},
    "projection": {"kind": "projection", "branch1": [9, 16], "branch2": [24]},
}


def model_config(interaction: dict, **options) -> DlrmModel:
    return DlrmModel(embedding_dim=DIM, top_mlp=(6, 1), interaction=interaction, **options)


def weights_of(model: DLRM) -> dict[str, np.ndarray]:
    return {name: value.detach().double().numpy() for name, value in model.named_parameters()}


def mlp(x: np.ndarray, weights: dict, name: str, *, relu_last: bool) -> np.ndarray:
    layers = sum(key.startswith(f"{name}.") and key.endswith(".weight") for key in weights)
    for layer in range(layers):
        x = weights[f"{name}.linears.{layer}.weight"] @ x + weights[f"{name}.linears.{layer}.bias"]
        x = np.maximum(x, 0.0) if layer < layers - 1 or relu_last else x
    return x


def interaction_by_hand(kind: str, vectors: list[np.ndarray], weights: dict) -> np.ndarray:
    x0 = x = np.concatenate(vectors)
    match kind:
        case "dot":
            return np.array([a @ b for a, b in itertools.combinations(vectors, 2)])
        case "dot with itself":
            return np.array([a @ b for a, b in itertools.combinations_with_replacement(vectors, 2)])
        case "dcn":
            for layer in range(2):
                w, v, b = (
                    weights[f"interaction.crossnet.{part}.{layer}"] for part in ("W_kernels", "V_kernels", "bias")
                )
                x = x0 * (w @ (v @ x) + b) + x
        case "projection":
            left = mlp(x, weights, "interaction.branch1", relu_last=True).reshape(-1, DIM)
            right = mlp(x, weights, "interaction.branch2", relu_last=True).reshape(DIM, -1)
            return (left @ right).flatten()
    return x


@pytest.mark.parametrize("kind", list(INTERACTIONS))
def test_logits_equal_a_float64_computation_by_hand(kind):
    model = cpu_model(model_config(INTERACTIONS[kind]), SCHEMA)
    weights = weights_of(model)
    assert not any(name.startswith("bottom_mlp") for name in weights)
    sparse = ragged_ids(SCHEMA, samples=5, longest=3)
    expected = []
    for sample in range(5):
        vectors = []
        for feature in SCHEMA.sparse:
            table = weights[f"tables.embedding_bags.{feature.name}.weight"]
            ids = sparse[feature.name].to_dense()[sample].tolist()
            vectors.append(sum((table[i] for i in ids), np.zeros(DIM)))
        x = interaction_by_hand(kind, vectors, weights)
        expected.append(mlp(x, weights, "top_mlp", relu_last=False))
    for mode in (True, False):
        logits = model.train(mode)(torch.empty(5, 0), sparse).detach().numpy()
        np.testing.assert_allclose(logits, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("dim", [4, 16, 32])
def test_the_default_bottom_mlp_does_not_apply(dim):
    assert cpu_model(DlrmModel(embedding_dim=dim), SCHEMA).top_mlp.linears[0].in_features == 3
    if dim != 16:
        with pytest.raises(ConfigError, match=f"bottom_mlp ends with 16, embedding_dim is {dim}: they must be equal"):
            cpu_model(DlrmModel(embedding_dim=dim), Schema.numbered(1, [3, 3]))


def test_what_cannot_mean_anything_is_refused_in_one_line():
    with pytest.raises(ConfigError) as caught:
        cpu_model(model_config({"kind": "dcn"}, bottom_mlp=(32, DIM)), SCHEMA)
    assert str(caught.value) == (
        "model.bottom_mlp: is the MLP on the dense features, of which the data have none: leave it out"
    )
    lonely = Schema.numbered(0, [40])
    with pytest.raises(ConfigError, match="no pair to multiply: use cat or dcn") as caught:
        cpu_model(model_config({"kind": "dot"}), lonely)
    assert "\n" not in str(caught.value)
    for kind in ("dot with itself", "cat", "dcn", "projection"):
        assert cpu_model(model_config(INTERACTIONS[kind]), lonely)(
            torch.empty(2, 0), ragged_ids(lonely, samples=2, longest=2)
        ).shape == (2, 1)
