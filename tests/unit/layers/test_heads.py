"""Mixtures of experts against float64 by hand, expert by expert and sample by sample."""

import itertools

import numpy as np
import pytest
import torch

from dlrm.config.model import Mmoe, Ple, SharedBottom
from dlrm.layers.heads import build_heads
from dlrm.layers.heads.experts import ExpertLinear

SAMPLES, FEATURES, TASKS = 5, 6, 3


def built(config, hidden=(4, 3), tasks=TASKS, dropout=0.0):
    body, heads = build_heads(FEATURES, hidden, config, tasks=tasks, dropout=dropout, seed=3, rank=0)
    generator = torch.Generator().manual_seed(1)
    for parameter in itertools.chain(body.parameters(), heads.parameters()):
        parameter.data.normal_(generator=generator)
    return body, heads


def inputs():
    return torch.randn(SAMPLES, FEATURES, generator=torch.Generator().manual_seed(2))


def double(parameter):
    return parameter.detach().double().numpy()


def expert(module, number, x_I):
    for layer in module.layers:
        x_I = np.maximum(double(layer.weight)[number] @ x_I + double(layer.bias)[number], 0)
    return x_I


def softmax(logits_E):
    return np.exp(logits_E) / np.exp(logits_E).sum()


def tower(module, x_H):
    *hidden, last = module.linears
    for linear in hidden:
        x_H = np.maximum(double(linear.weight) @ x_H + double(linear.bias), 0)
    return (double(last.weight) @ x_H + double(last.bias)).item()


def mmoe_by_hand(body, heads, x_X):
    """Equations 6 and 7 of Ma et al."""
    outputs = [expert(body.experts, i, x_X) for i in range(len(body.experts.layers[0].weight))]
    logits = []
    for k, own in enumerate(heads.towers):
        gate_E = softmax(double(body.gates.weight)[k] @ x_X)
        logits.append(tower(own, sum(g * f for g, f in zip(gate_E, outputs, strict=True))))
    return logits


def ple_by_hand(body, heads, x_X, of_task):
    """Equations 1 to 3 of Tang et al. on each level, and the shared gate between levels (section 4.3)."""
    own, common = [x_X] * len(heads.towers), x_X
    for level in body.levels:
        shared = [expert(level.shared, i, common) for i in range(len(level.shared.layers[0].weight))]
        every, mixed = [], []
        for k, x_I in enumerate(own):
            mine = [expert(level.of_tasks, k * of_task + i, x_I) for i in range(of_task)]
            every += mine
            weights = softmax(double(level.gates.weight)[k] @ x_I)
            mixed.append(sum(w * f for w, f in zip(weights, [*mine, *shared], strict=True)))
        if level.shared_gate is not None:
            weights = softmax(double(level.shared_gate.weight)[0] @ common)
            common = sum(w * f for w, f in zip(weights, [*every, *shared], strict=True))
        own = mixed
    return [tower(module, x_H) for module, x_H in zip(heads.towers, own, strict=True)]


@pytest.mark.parametrize("tasks", [1, 3])
@pytest.mark.parametrize(("hidden", "sizes"), [((4, 3), (5,)), ((4,), ())])
def test_mmoe_is_its_equations(hidden, sizes, tasks):
    body, heads = built(Mmoe(experts=2, tower=sizes), hidden, tasks)
    by_hand = [mmoe_by_hand(body, heads, x_X) for x_X in inputs().double().numpy()]
    np.testing.assert_allclose(heads(body(inputs())).detach(), by_hand, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("levels", [1, 2, 3])
@pytest.mark.parametrize(("of_task", "shared"), [(2, 1), (1, 3)])
def test_ple_is_its_equations(levels, of_task, shared):
    body, heads = built(Ple(levels=levels, task_experts=of_task, shared_experts=shared, tower=(5,)))
    by_hand = [ple_by_hand(body, heads, x_X, of_task) for x_X in inputs().double().numpy()]
    np.testing.assert_allclose(heads(body(inputs())).detach(), by_hand, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("inputs_", "bias"), [(1, True), (2, False), (6, True)])
def test_unrolled_into_plain_layers_experts_compute_the_same(inputs_, bias):
    layer = ExpertLinear(4, 3, experts=6, inputs=inputs_, bias=bias)
    for parameter in layer.parameters():
        parameter.data.normal_()
    x_BGI = torch.randn(SAMPLES, inputs_, 4)
    unrolled = layer.unrolled()
    torch.testing.assert_close(unrolled(x_BGI), layer(x_BGI))
    assert {type(module) for module in unrolled.modules() if list(module.parameters(recurse=False))} == {
        torch.nn.Linear
    }


@pytest.mark.parametrize("config", [Mmoe(), Ple()])
def test_every_weight_has_a_gradient(config):
    body, heads = built(config)
    heads(body(inputs())).sum().backward()
    named = [*body.named_parameters(), *heads.named_parameters()]
    assert [name for name, parameter in named if parameter.grad is None or not parameter.grad.any()] == []


def test_no_expert_of_another_task_reaches_a_task():
    body, heads = built(Ple(levels=1, task_experts=2, shared_experts=1))
    heads(body(inputs()))[:, 1].sum().backward()
    gradient_E = body.levels[0].of_tasks.layers[0].weight.grad.abs().sum((1, 2))
    assert (gradient_E > 0).tolist() == [False, False, True, True, False, False]


@pytest.mark.parametrize("config", [Mmoe(experts=3), Ple(levels=2)])
def test_dropout_hits_the_hidden_units_of_experts_and_no_two_of_them_alike(config):
    body, heads = built(config, (4, 4, 3), dropout=0.5)
    assert torch.equal(*(heads.eval()(body.eval()(inputs())) for _ in range(2)))
    dropouts = [module for module in body.modules() if type(module).__name__ == "SampleDropout"]
    experts = 1 if isinstance(config, Mmoe) else 4
    assert len(dropouts) == len({module.key for module in dropouts}) == 2 * experts
    assert not torch.equal(body.train()(inputs()), body.train()(inputs()))


def test_with_one_expert_mmoe_is_a_shared_bottom():
    body, heads = built(Mmoe(experts=1, tower=(5,)))
    plain, towers = built(SharedBottom(tower=(5,)))
    for layer, linear in zip(body.experts.layers, plain.linears, strict=True):
        linear.weight.data, linear.bias.data = layer.weight.data[0], layer.bias.data[0]
    towers.load_state_dict(heads.state_dict())
    torch.testing.assert_close(heads(body(inputs())), towers(plain(inputs())))


def fitted(config, hidden, steps=150):
    """The log loss of each of two tasks that have nothing in common, after training on what decides them."""
    generator = torch.Generator().manual_seed(5)
    x_BX = torch.randn(512, FEATURES, generator=generator)
    x_BX[:, 0] = 1.0  # with which a gate can be the same for all samples
    labels_BT = (x_BX[:, 1:3] > 0).float()
    body, heads = built(config, hidden, tasks=2)
    for parameter in itertools.chain(body.parameters(), heads.parameters()):
        parameter.data *= 0.5
    optimizer = torch.optim.Adam([*body.parameters(), *heads.parameters()], lr=0.05)
    for _ in range(steps):
        optimizer.zero_grad()
        entropies_BT = torch.nn.functional.binary_cross_entropy_with_logits(
            heads(body(x_BX)), labels_BT, reduction="none"
        )
        entropies_BT.mean().backward()
        optimizer.step()
    return entropies_BT.mean(0).tolist()


def test_two_tasks_without_anything_in_common_fit_into_experts_but_not_into_one_unit_that_they_share():
    """One unit tells the sign of one direction; two tasks need two. A coin's entropy is log 2 = 0.69."""
    shared = fitted(SharedBottom(tower=(4,)), (1,))
    assert sum(shared) > 0.65
    for config in (Mmoe(experts=2, tower=(4,)), Ple(levels=1, task_experts=1, shared_experts=1, tower=(4,))):
        assert max(fitted(config, (1,))) < 0.15, config
