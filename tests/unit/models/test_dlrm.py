import numpy as np
import pytest
import torch
from torchrec.models import dlrm as torchrec_dlrm
from torchrec.modules.embedding_configs import EmbeddingBagConfig, PoolingType
from torchrec.modules.embedding_modules import EmbeddingBagCollection

from dlrm.config.model import DlrmModel
from dlrm.models import DLRM, TrainTask
from dlrm.schema import Schema
from tests.unit.models.helpers import copy_parameters, cpu_model, ragged_ids, random_batch

SCHEMA = Schema.numbered(5, rows=[40, 7, 100, 3], hotness=[1, 3, 2, 1])
BOTTOM, TOP, DIM = (16, 8), (12, 6, 1), 8

INTERACTIONS = {
    "dot": {"kind": "dot"},
    "dcn": {"kind": "dcn", "layers": 3, "rank": 5},
    "projection": {"kind": "projection", "branch1": [24, 16], "branch2": [20, 24]},
}
TORCHREC = {
    "dot": (torchrec_dlrm.DLRM, {}),
    "dcn": (torchrec_dlrm.DLRM_DCN, {"dcn_num_layers": 3, "dcn_low_rank_dim": 5}),
    "projection": (
        torchrec_dlrm.DLRM_Projection,
        {"interaction_branch1_layer_sizes": [24, 16], "interaction_branch2_layer_sizes": [20, 24]},
    ),
}


def model_config(interaction: dict, **options) -> DlrmModel:
    return DlrmModel(embedding_dim=DIM, bottom_mlp=BOTTOM, top_mlp=TOP, interaction=interaction, **options)


def torchrec_tables(pooling: str) -> EmbeddingBagCollection:
    return EmbeddingBagCollection(
        tables=[
            EmbeddingBagConfig(
                name=feature.name,
                feature_names=[feature.name],
                num_embeddings=feature.rows,
                embedding_dim=DIM,
                pooling=PoolingType(pooling.upper()),
            )
            for feature in SCHEMA.sparse
        ]
    )


def torchrec_twin(model: DLRM, kind: str, config: DlrmModel) -> torch.nn.Module:
    build, options = TORCHREC[kind]
    twin = build(
        torchrec_tables(config.pooling),
        dense_in_features=len(SCHEMA.dense),
        dense_arch_layer_sizes=list(BOTTOM),
        over_arch_layer_sizes=list(TOP),
        **options,
    )
    copy_parameters(model.bottom_mlp, twin.dense_arch)
    copy_parameters(model.tables, twin.sparse_arch)
    copy_parameters(model.interaction, twin.inter_arch)
    copy_parameters(model.top_mlp, twin.over_arch)
    return twin


@pytest.mark.parametrize("pooling", ["sum", "mean"])
@pytest.mark.parametrize("kind", list(INTERACTIONS))
def test_the_same_weights_give_the_same_logits_as_torchrecs_model(kind, pooling):
    config = model_config(INTERACTIONS[kind], pooling=pooling)
    model = cpu_model(config, SCHEMA)
    twin = torchrec_twin(model, kind, config)
    dense = torch.randn(33, 5, generator=torch.Generator().manual_seed(1))
    sparse = ragged_ids(SCHEMA, samples=33, longest=4)
    expected = twin(dense, sparse)
    torch.testing.assert_close(model.train()(dense, sparse), expected, rtol=1e-6, atol=1e-7)
    torch.testing.assert_close(model.eval()(dense, sparse), expected, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("kind", list(INTERACTIONS))
def test_the_same_weights_give_the_same_gradients_as_torchrecs_model(kind):
    config = model_config(INTERACTIONS[kind])
    model = cpu_model(config, SCHEMA).train()
    twin = torchrec_twin(model, kind, config)
    batch = random_batch(SCHEMA, samples=17)
    TrainTask(model)(batch)[0].backward()
    torch.nn.functional.binary_cross_entropy_with_logits(twin(batch.dense, batch.sparse), batch.labels).backward()
    ours = [model.bottom_mlp, model.tables, model.interaction, model.top_mlp]
    theirs = [twin.dense_arch, twin.sparse_arch, twin.inter_arch, twin.over_arch]
    for mine, its in zip(ours, theirs, strict=True):
        for parameter, other in zip(mine.parameters(), its.parameters(), strict=True):
            torch.testing.assert_close(parameter.grad, other.grad, rtol=1e-5, atol=1e-7)


def test_a_whole_model_with_tables_of_different_widths_equals_a_float64_computation_by_hand():
    config = model_config({"kind": "cat"}, tables={"cat_1": {"embedding_dim": 4, "pooling": "mean"}})
    model = cpu_model(config, SCHEMA).double()
    dense = torch.randn(6, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    sparse = ragged_ids(SCHEMA, samples=6, longest=3)
    weights = {name: value.detach().numpy() for name, value in model.named_parameters()}
    expected = []
    for sample in range(6):
        x = mlp_by_hand(dense[sample].numpy(), weights, "bottom_mlp", relu_last=True)
        pooled = [x]
        for feature in SCHEMA.sparse:
            ids = sparse[feature.name].to_dense()[sample].tolist()
            table = weights[f"tables.embedding_bags.{feature.name}.weight"]
            total = sum((table[i] for i in ids), np.zeros(table.shape[1]))
            pooled.append(total / max(len(ids), 1) if feature.name == "cat_1" else total)
        expected.append(mlp_by_hand(np.concatenate(pooled), weights, "top_mlp", relu_last=False))
    # The collection hands out float32 whatever its tables hold.
    model.pooling.register_forward_hook(lambda module, inputs, output: output.double())
    np.testing.assert_allclose(model(dense, sparse).detach().numpy(), expected, rtol=1e-6, atol=1e-7)


def mlp_by_hand(x: np.ndarray, weights: dict[str, np.ndarray], name: str, *, relu_last: bool) -> np.ndarray:
    layers = sum(key.startswith(f"{name}.") and key.endswith(".weight") for key in weights)
    for layer in range(layers):
        x = weights[f"{name}.linears.{layer}.weight"] @ x + weights[f"{name}.linears.{layer}.bias"]
        if layer < layers - 1 or relu_last:
            x = np.maximum(x, 0.0)
    return x


def test_the_loss_is_the_scaled_sum_of_float64_cross_entropies_without_the_padding():
    task = TrainTask(cpu_model(model_config(INTERACTIONS["dot"]), SCHEMA))
    batch = random_batch(SCHEMA, samples=10, size=13, world_size=3)
    loss, (detached, losses, logits, labels, weights) = task(batch)
    z = logits.numpy().astype(np.float64)[:10]
    y = batch.labels.numpy().astype(np.float64)[:10]
    cross_entropies = np.log1p(np.exp(z)) - y * z
    assert loss.item() == pytest.approx(3 / 30 * cross_entropies.sum(), rel=1e-6)
    assert detached.item() == losses.item() == loss.item()
    assert not any(output.requires_grad for output in (detached, losses, logits))
    assert logits.shape == (13, 1)
    assert labels is batch.labels
    assert weights is batch.weights


def test_padding_adds_nothing_to_any_gradient():
    def gradients(size: int) -> list[torch.Tensor]:
        task = TrainTask(cpu_model(model_config(INTERACTIONS["dot"]), SCHEMA)).double()
        batch = random_batch(SCHEMA, samples=10, size=size)
        batch.dense = batch.dense.double()
        batch.dense[10:] = 5.0  # even where padding does not hold zeros
        task.model.pooling.register_forward_hook(lambda module, inputs, output: output.double())
        task(batch)[0].backward()
        return [parameter.grad for parameter in task.parameters()]

    for padded, plain in zip(gradients(16), gradients(10), strict=True):
        torch.testing.assert_close(padded, plain, rtol=1e-12, atol=1e-14)


def test_padding_gets_no_gradient_itself():
    task = TrainTask(cpu_model(model_config(INTERACTIONS["dot"]), SCHEMA))
    batch = random_batch(SCHEMA, samples=10, size=16)
    batch.dense.requires_grad_()
    task(batch)[0].backward()
    assert (batch.dense.grad[10:] == 0).all()
    assert (batch.dense.grad[:10] != 0).any(dim=1).all()
