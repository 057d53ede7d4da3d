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
from dlrm.models.task_weighting import UncertaintyWeights
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


def test_learned_weights_are_those_of_the_likelihood_of_the_labels_that_are_there():
    batch, model = batch_of(64), model_of(MODELS[0])
    task = TrainTask(model, None, tasks=3)
    task.task_weighting.log_variances.data = torch.tensor([0.5, -1.0, 2.0])
    loss, (_, losses_T, logits_BT, labels_BT, weights_BT) = task(batch)
    loss.backward()
    s, share_T = task.task_weighting.log_variances.detach().double(), weights_BT.double().mean(0)
    by_hand = torch.zeros((), dtype=torch.float64)
    for i, t in weights_BT.nonzero().tolist():
        entropy = torch.nn.functional.softplus((1 - 2 * labels_BT[i, t].double()) * logits_BT[i, t].double())
        by_hand += ((-s[t]).exp() * entropy + s[t] / 2) / 64
    assert loss.item() == pytest.approx(by_hand.item(), rel=1e-6)
    expected_T = -(-s).exp() * losses_T.double() + share_T / 2
    torch.testing.assert_close(task.task_weighting.log_variances.grad.double(), expected_T, rtol=1e-5, atol=1e-7)
    assert task.task_weighting.weights() == pytest.approx((-s).exp().tolist())
    assert task.groups == [*model.groups, "task_weighting"]


def test_learned_weights_can_be_frozen_like_every_group():
    task = TrainTask(model_of(MODELS[0]), None, tasks=3)
    task.freeze(["task_weighting", "top_mlp"])
    frozen = {name.split(".")[-2] for name, p in task.named_parameters() if not p.requires_grad}
    assert not task.task_weighting.log_variances.requires_grad
    assert not any(p.requires_grad for p in task.model.top_mlp.parameters())
    assert all(p.requires_grad for p in task.model.bottom_mlp.parameters())
    assert "task_weighting" in frozen


def test_learned_weights_come_to_rest_where_each_task_weighs_one_half_of_its_labels_whatever_is_missing():
    weighting = UncertaintyWeights(2)
    weights_BT = torch.tensor([[1.0, 1.0], [1.0, 0.0], [1.0, 0.0], [1.0, 0.0]])
    losses_T = torch.tensor([0.3, 0.15])  # a mean over labels of 0.3 and 0.6
    optimizer = torch.optim.SGD(weighting.parameters(), lr=1.0)
    for _ in range(300):
        optimizer.zero_grad()
        weighting(losses_T, weights_BT, torch.tensor(0.25)).backward()
        optimizer.step()
    assert weighting.weights() == pytest.approx([1 / 0.6, 1 / 1.2], rel=1e-4)


@pytest.mark.parametrize("weights", [(1.0, 0.5, 3.0), None])
def test_smoothed_labels_are_trained_on_and_the_labels_as_they_are_are_shown(weights):
    batch = batch_of(64)
    plain, smoothed = (TrainTask(model_of(MODELS[0]), weights, tasks=3, label_smoothing=e) for e in (0.0, 0.2))
    loss, (_, losses_T, logits_BT, labels_BT, weights_BT) = smoothed(batch)
    loss.backward()
    by_hand_BT = torch.nn.functional.binary_cross_entropy_with_logits(
        logits_BT.double(), 0.8 * labels_BT.double() + 0.1, weight=weights_BT.double(), reduction="none"
    )
    expected = sum(w * of.sum().item() / 64 for w, of in zip(weights or (1, 1, 1), by_hand_BT.T, strict=True))
    assert loss.item() == pytest.approx(expected, rel=1e-6)
    assert torch.equal(losses_T, plain(batch)[1][1])
    assert torch.equal(labels_BT, batch.labels)
    bias = smoothed.model.top_mlp.linears[-1].bias.grad.double()
    gradient_T = ((logits_BT.double().sigmoid() - 0.8 * labels_BT - 0.1) * weights_BT).mean(0)
    torch.testing.assert_close(bias, gradient_T * torch.tensor(weights or (1, 1, 1)), rtol=1e-4, atol=1e-7)
