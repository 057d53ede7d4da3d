import pytest
import torch
from torch import nn

from dlrm.config import load_config
from dlrm.layers.interaction import Interaction
from dlrm.models.activations import LARGE, activations
from dlrm.models.build import build_model
from dlrm.models.task import TrainTask
from dlrm.schema import Schema
from tests.support.models import SMALL_MODELS

SCHEMA = Schema.numbered(3, (50, 60))
CPU = torch.device("cpu")


def task_of(*options):
    return TrainTask(build_model(load_config(None, ["model.embedding_dim=8", *options]).model, SCHEMA, seed=0))


class Kept(Interaction):
    """Multiplies three times by what it was given: autograd keeps each factor."""

    def forward(self, dense_BD, pooled_BX):
        x_BX = pooled_BX * 2
        return x_BX.exp().sin().exp()


def test_what_is_kept_for_the_backward_pass_is_counted_by_hand():
    task = task_of("model.bottom_mlp=8", "model.top_mlp=4,1")
    task.model.interaction = Kept(16)
    task.model.bottom_mlp = nn.Identity()
    task.model.top_mlp = nn.Linear(16, 1, bias=False)
    samples, f32 = 64, 4
    found = activations(task, SCHEMA, samples, CPU)
    wide, narrow = samples * 16 * f32, samples * f32
    # exp keeps its result, sin its input (the same), the last exp its result, the layer its input (the same): two. The
    # cross entropy keeps the logits; the losses, of a task and in all, are a few bytes.
    assert 2 * wide + narrow <= found.saved <= 2 * wide + 3 * narrow + 64
    # Backward through the last exp and sin: a gradient comes in and one goes out, and cos(x) in between.
    assert found.saved + 2 * wide <= found.peak <= found.saved + 3 * wide + 4 * narrow
    # Forward without gradients: an operator's input and its result, what callers still name: x, and the tables' output.
    assert 3 * wide <= found.evaluated <= 4 * wide + 4 * narrow
    assert (found.small, found.large) == (max(found.peak, found.evaluated), 0)


def test_large_tensors_are_told_from_small_ones_and_batches_of_evaluations_have_their_size():
    task = task_of("model.bottom_mlp=16,8", "model.top_mlp=16,1")
    samples = LARGE // (16 * 4)  # the bottom layer's output, and what the tables give, are as large as this
    small, large, scored = (
        activations(task, SCHEMA, size, CPU, evaluation_samples=of_evaluation)
        for size, of_evaluation in ((samples // 4, 0), (samples, 0), (samples // 4, samples))
    )
    assert (small.small, small.large, small.evaluated) == (small.peak, 0, 0)
    assert 3 * LARGE <= large.large < large.peak <= large.small + large.large
    assert scored.peak == small.peak
    assert scored.evaluated == pytest.approx(activations(task, SCHEMA, samples, CPU).evaluated)
    assert scored.large > 0


class AsItIs(Interaction):
    def forward(self, dense_BD, pooled_BX):
        return pooled_BX


def test_what_ranks_exchange_is_held_with_what_the_tables_give():
    task = with_child(AsItIs(16))
    alone, among_others = (activations(task, SCHEMA, 1000, CPU, exchanged=others) for others in (False, True))
    wide, narrow = 1000 * 16 * 4, 1000 * 4
    # Alone: the output and its gradient at most. Among others: the gradient as it is made, as it is sent, and what comes.
    assert 2 * wide <= alone.peak <= 2 * wide + 4 * narrow + 64
    assert 3 * wide <= among_others.peak <= 3 * wide + 4 * narrow + 64
    # Forward: looked up, received, in the model's order.
    assert wide <= alone.evaluated <= wide + 5 * narrow
    assert among_others.evaluated == 3 * wide


def test_memory_grows_with_the_batch_and_the_model_is_left_as_it_was():
    task = task_of("model.bottom_mlp=16,8", "model.top_mlp=16,1", "model.dropout=0.5")
    tables, weights = (
        task.model.tables,
        {name: weight.clone() for name, weight in task.model.top_mlp.named_parameters()},
    )
    small, large = (activations(task, SCHEMA, samples, CPU) for samples in (1000, 2000))
    for name in ("saved", "peak", "evaluated"):
        assert 1.95 * getattr(small, name) < getattr(large, name) <= 2 * getattr(small, name)
    assert task.model.tables is tables
    assert task.training
    assert not any(buffer.item() for name, buffer in task.named_buffers() if name.endswith("steps"))
    for name, weight in task.model.top_mlp.named_parameters():
        assert torch.equal(weight, weights[name])
        assert weight.grad is None


def with_child(child):
    task = task_of("model.bottom_mlp=8", "model.top_mlp=4,1")
    task.model.interaction, task.model.bottom_mlp, task.model.top_mlp = child, nn.Identity(), nn.Linear(16, 1)
    return task


@torch.library.custom_op("dlrm_test::without_shapes", mutates_args=())
def without_shapes(x: torch.Tensor) -> torch.Tensor:
    return x.clone()


class AsksForValues(nn.Module):
    """What only tensors with values can do."""

    def __init__(self, ask):
        super().__init__()
        self.ask, self.calls = ask, 0

    def forward(self, dense_BD, pooled_BX):
        self.calls += 1
        return self.ask(pooled_BX)


@pytest.mark.parametrize(
    ("ask", "said"),
    [
        (lambda x: 2 * x if x.sum() > 0 else x, "DataDependentOutputException: aten._local_scalar_dense.default"),
        (lambda x: x * x.mean().item(), "DataDependentOutputException: aten._local_scalar_dense.default"),
        (lambda x: x + x[x > 0].sum(), "DynamicOutputShapeException: aten.nonzero.default"),
        (lambda x: x + x.detach().unique().sum(), "DynamicOutputShapeException: aten._unique2.default"),
        (lambda x: without_shapes(x), "RuntimeError: There was no fake impl registered for <CustomOpDef(dlrm_test::w"),
    ],
)
def test_a_model_that_needs_values_is_not_counted_and_says_why(ask, said):
    task = with_child(AsksForValues(ask))
    tables = task.model.tables
    found = activations(task, SCHEMA, 10, CPU)
    assert (found.saved, found.peak, found.evaluated) == (0, 0, 0)
    assert found.unknown.startswith(said)
    assert "\n" not in found.unknown
    assert task.model.tables is tables
    assert task.model.interaction.calls == 0
    assert task.training


class Notes(nn.Module):
    """Holds a tensor that is no buffer, and makes another when it is first called."""

    def __init__(self):
        super().__init__()
        self.factor_X = torch.full((16,), 2.0)
        self.made_X = None

    def forward(self, dense_BD, pooled_BX):
        if self.made_X is None:
            self.made_X = torch.ones(16)
        return pooled_BX * self.factor_X * self.made_X


def test_plain_tensors_of_a_module_count_and_what_it_notes_down_stays_in_the_copy():
    task = with_child(Notes())
    found = activations(task, SCHEMA, 64, CPU)
    assert not found.unknown
    assert found.peak > 64 * 16 * 4
    assert task.model.interaction.made_X is None
    assert task.model.interaction.factor_X.tolist() == [2.0] * 16


def test_every_kind_of_model_runs_without_memory():
    for options in (
        ["model.interaction.kind=cat"],
        ["model.interaction.kind=dcn"],
        ["model.interaction={kind: projection, branch1: '16,16', branch2: '16,16'}"],
        ["model.pooling=mean"],
        ["model.heads.tower=4"],
    ):
        found = activations(task_of("model.bottom_mlp=16,8", "model.top_mlp=16,1", *options), SCHEMA, 10, CPU)
        assert 0 < found.saved < found.peak
    for kind in ("deepfm", "wukong"):  # tests of what a step computes (scaling) run the others so
        other = TrainTask(build_model(load_config(None, [f"model={SMALL_MODELS[kind]}"]).model, SCHEMA, seed=0))
        found = activations(other, SCHEMA, 10, CPU)
        assert 0 < found.saved < found.peak, found.unknown
