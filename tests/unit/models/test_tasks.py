"""Heads and the loss of several tasks, against float64 by hand."""

import pytest
import torch
from sklearn.metrics import log_loss

from dlrm.config.model import (
    DcnV1Model,
    DeepFmModel,
    DlrmModel,
    Mmoe,
    Ple,
    SharedBottom,
    WideDeepModel,
    WukongModel,
    XDeepFmModel,
)
from dlrm.data.batch import Batch
from dlrm.models import TrainTask, build_model
from dlrm.schema import Schema
from tests.unit.models.helpers import random_batch

TASKS = ("click", "like", "follow")
SCHEMA = Schema.numbered(3, [10, 20], tasks=TASKS)
DLRM_MODEL = {"bottom_mlp": (8, 4), "embedding_dim": 4, "top_mlp": (6, 1)}
MODELS = [
    DlrmModel(**DLRM_MODEL),
    DeepFmModel(deep_mlp=(6,), embedding_dim=4),
    WideDeepModel(deep_mlp=(6,), embedding_dim=8),
    DcnV1Model(deep_mlp=(6,), embedding_dim=4),
    XDeepFmModel(cin=(3, 2), deep_mlp=(6,), embedding_dim=8),
    WukongModel(fm_vectors=2, linear_vectors=1, fm_rank=2, fm_mlp=(7,), top_mlp=(6,), embedding_dim=4),
]


def model_of(config, tower=(), schema=SCHEMA):
    with_tower = config.model_copy(update={"heads": SharedBottom(tower=tower)})
    return build_model(with_tower, schema, seed=0, tables_device="cpu")


def batch_of(samples=7, seed=0) -> Batch:
    batch = random_batch(SCHEMA, samples=samples, seed=seed)
    generator = torch.Generator().manual_seed(seed)
    batch.labels = torch.randint(0, 2, (samples, 3), generator=generator).float()
    batch.weights = (torch.rand(samples, 3, generator=generator) < 0.7).float()
    return batch


def names(model):
    return [name for name, _ in model.named_parameters() if not name.startswith("tables.")]


@pytest.mark.parametrize("config", MODELS)
@pytest.mark.parametrize("tower", [(), (5,), (5, 3)])
def test_every_sample_has_a_logit_a_task(config, tower):
    model, batch = model_of(config, tower), batch_of()
    assert model(batch.dense, batch.sparse).shape == (7, 3)
    assert ("heads" in model.groups) == bool(tower)
    assert set(model.lower_precision) <= {name for name, _ in model.named_children()}


@pytest.mark.parametrize("config", MODELS)
@pytest.mark.parametrize("heads", [Mmoe(), Ple(tower=(5,))])
@pytest.mark.parametrize("schema", [SCHEMA, Schema.numbered(3, [10, 20])])
def test_experts_take_the_place_of_the_models_mlp_and_its_group(config, heads, schema):
    batch = batch_of()
    model = build_model(config.model_copy(update={"heads": heads}), schema, seed=0, tables_device="cpu")
    assert model(batch.dense, batch.sparse).shape == (7, len(schema.tasks))
    assert model.groups == [*model_of(config, (5,)).groups]
    drawn = [parameter for name, parameter in model.named_parameters() if name.endswith("weight")]
    assert len({round(parameter[0].std().item(), 9) for parameter in drawn}) == len(drawn)  # each of its own


@pytest.mark.parametrize("config", MODELS)
def test_one_task_has_the_weights_that_it_had_before_there_were_several(config):
    one = model_of(config, schema=Schema.numbered(3, [10, 20]))
    several = model_of(config)
    assert names(one) == names(several)
    assert not any(name.startswith("heads") for name in names(one))
    assert one(*_inputs()).shape == (7, 1)


def _inputs():
    batch = batch_of()
    return batch.dense, batch.sparse


@pytest.mark.parametrize("config", MODELS)
def test_towers_compute_what_they_do_by_hand(config):
    model, batch = model_of(config, (5,)), batch_of()
    shared = []
    model.heads.register_forward_pre_hook(lambda module, inputs: shared.append(inputs[0]))
    heads = []
    model.heads.register_forward_hook(lambda module, inputs, output: heads.append(output))
    model(batch.dense, batch.sparse)
    assert (shared[0] >= 0).all()  # behind a ReLU
    weights = {name: parameter.detach().double() for name, parameter in model.heads.named_parameters()}
    for task in range(3):
        first, last = (
            (weights[f"towers.{task}.linears.{i}.weight"], weights[f"towers.{task}.linears.{i}.bias"]) for i in (0, 1)
        )
        hidden = (shared[0].double() @ first[0].T + first[1]).clamp(min=0)
        by_hand = hidden @ last[0].T + last[1]
        torch.testing.assert_close(heads[0][:, task].double(), by_hand[:, 0], rtol=1e-5, atol=1e-6)
    assert len({tuple(weights[f"towers.{task}.linears.0.weight"][0].tolist()) for task in range(3)}) == 3


@pytest.mark.parametrize("weights", [(1.0, 1.0, 1.0), (1.0, 0.5, 3.0)])
def test_the_loss_is_the_weighted_sum_of_the_tasks_mean_entropies_over_the_batch(weights):
    batch = batch_of(64)
    loss, (shown, losses_T, logits_BT, labels_BT, weights_BT) = TrainTask(model_of(MODELS[0]), weights)(batch)
    expected = []
    for task in range(3):
        counts = weights_BT[:, task] > 0
        probabilities = logits_BT[counts, task].double().sigmoid().numpy()
        mean = log_loss(labels_BT[counts, task].numpy(), probabilities, labels=[0.0, 1.0])
        expected.append(mean * counts.sum().item() / 64)  # a missing label adds nothing
    assert losses_T.tolist() == pytest.approx(expected, rel=1e-6)
    assert loss.item() == shown.item() == pytest.approx(sum(w * e for w, e in zip(weights, expected, strict=True)))


def test_a_missing_label_has_no_gradient():
    batch = batch_of()
    batch.weights[:, 2] = 0
    model = model_of(MODELS[0], (5,))
    loss, _ = TrainTask(model, (1.0, 1.0, 1.0))(batch)
    loss.backward()
    for task, tower in enumerate(model.heads.towers):
        assert any(p.grad.any() for p in tower.parameters()) == (task != 2)


@pytest.mark.parametrize(("heads", "what"), [(SharedBottom(tower=(4,)), "heads.tower"), (Mmoe(), "an expert of heads")])
def test_towers_and_experts_need_a_hidden_layer(heads, what):
    with pytest.raises(ValueError, match=f"{what} needs a hidden layer of top_mlp"):
        DlrmModel(**{**DLRM_MODEL, "top_mlp": (1,)}, heads=heads)
