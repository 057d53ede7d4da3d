"""All optimizers together, on a sharded model, against plain torch in float64 with every rate set by hand."""

import pytest
import torch
from torch.distributed._shard.sharded_tensor import ShardedTensor
from torchrec.optim.keyed import KeyedOptimizerWrapper

from dlrm.config import Config, load_config
from dlrm.config.optim import OptimConfig
from dlrm.data.batch import Batch
from dlrm.data.loader import BatchLoader
from dlrm.data.order import SampleOrder
from dlrm.distributed.collectives import ProcessGroup
from dlrm.errors import ConfigError
from dlrm.optim.schedule import learning_rate
from dlrm.optim.training import check_all_are_trained, check_rate_groups
from dlrm.schema import Schema
from dlrm.train.engine import build_engine
from tests.support.ranks import run_ranks
from tests.support.training import this_world, tiny_source
from tests.unit.models.helpers import cpu_model

SAMPLES, BATCH, STEPS = 39, 8, 5  # the last batch has 7: padding on the second of two ranks
GROUPS = ["bottom_mlp", "interaction", "top_mlp"]
COMMON = [
    "model={embedding_dim: 4, bottom_mlp: [8, 4], top_mlp: [8, 1]}",
    "train.global_batch_size=8",
    "optim.schedule={warmup_steps: 2, decay_start_step: 3, decay_steps: 3}",
    "optim.lr_scale={top_mlp: 0.5, bottom_mlp: 3, cat_0: 2, cat_1: 0.25}",
    "sharding.types=table_wise",
    "sharding.tables={cat_0: {types: data_parallel}, cat_2: {types: row_wise}, cat_3: {types: data_parallel}}",
]
DENSE = {
    "sgd": (
        "{kind: sgd, lr: 0.2, momentum: 0.9, weight_decay: 0.01}",
        torch.optim.SGD,
        {"momentum": 0.9, "weight_decay": 0.01},
    ),
    "adagrad": (
        "{kind: adagrad, lr: 0.1, eps: 1e-4, initial_accumulator: 0.05}",
        torch.optim.Adagrad,
        {"eps": 1e-4, "initial_accumulator_value": 0.05},
    ),
    "adam": ("{kind: adam, lr: 0.01, beta1: 0.8, eps: 1e-4}", torch.optim.Adam, {"betas": (0.8, 0.999), "eps": 1e-4}),
    "adamw": ("{kind: adamw, lr: 0.01, eps: 1e-4}", torch.optim.AdamW, {"eps": 1e-4, "weight_decay": 0.01}),
}


def config_of(dense: str, sparse: str, *options: str) -> Config:
    of_tables = f"optim.sparse={{kind: {sparse}, lr: 0.3}}"
    return load_config(None, [*COMMON, f"optim.dense={DENSE[dense][0]}", of_tables, *options])


def rate_group(name: str) -> str:
    """``bottom_mlp``, ``interaction``, ``top_mlp`` or the table of a parameter."""
    parts = name.split(".")
    return parts[parts.index("embedding_bags") + 1] if "embedding_bags" in parts else parts[0]


def short(name: str) -> str:
    """A parameter's name in the plain model."""
    return name.removeprefix("_dmp_wrapped_module.").replace("module.", "").removeprefix("model.")


def trained_on_ranks(rank: int, world_size: int, config: Config) -> tuple[dict[str, list], list[float]]:
    """(first row, part) of every parameter on this rank, and the norms of the MLPs' gradients after each step."""
    engine = build_engine(config, tiny_source(1).schema, this_world())
    order = SampleOrder(SAMPLES, global_batch_size=BATCH)
    loader = BatchLoader(tiny_source(SAMPLES), order, rank=rank, world_size=world_size)
    mlps = [p for name, p in engine.model.named_parameters() if "embedding_bags" not in name]
    norms = []
    for _ in engine.stepper.train(loader.batches(0, 0, STEPS), first_step=1):
        norms.append(torch.cat([p.grad.flatten() for p in mlps]).norm().item())
    parts = {}
    for name, value in engine.model.state_dict().items():
        if isinstance(value, ShardedTensor):
            parts[short(name)] = [(s.metadata.shard_offsets[0], s.tensor.clone()) for s in value.local_shards()]
        else:
            parts[short(name)] = [(0, value.clone())]
    return parts, norms


def assembled(ranks: list[dict[str, list]]) -> dict[str, torch.Tensor]:
    """Whole parameters; parts that several ranks hold have to be equal."""
    whole = {}
    for name in ranks[0]:
        by_row: dict[int, torch.Tensor] = {}
        for first_row, part in (piece for parts in ranks for piece in parts[name]):
            assert torch.equal(by_row.setdefault(first_row, part), part), name
        whole[name] = torch.cat([by_row[row] for row in sorted(by_row)])
    return whole


def looked_up(tables: dict[str, torch.Tensor], batch: Batch) -> list[torch.Tensor]:
    """The rows of each table that the samples look up, one a sample; no module pools them."""
    ids = batch.sparse.to_dict()
    return [table[ids[rate_group(name)].values()] for name, table in tables.items()]


def trained_by_hand(
    config: Config, dense: str, samples: int = SAMPLES, steps: int = STEPS
) -> tuple[dict[str, torch.Tensor], list[float], list[float]]:
    """The same in float64 on the plain model: torch's own optimizers, rates set step by step, tables by formula.

    Returns:
        Parameters; norms of the MLPs' gradients; losses, without any penalty.
    """
    model = cpu_model(config.model, tiny_source(1).schema, seed=config.run.seed).double()
    mlps = {name: p for name, p in model.named_parameters() if "embedding_bags" not in name}
    tables = {name: p for name, p in model.named_parameters() if "embedding_bags" in name}
    _, kind, arguments = DENSE[dense]
    optimizers = {name: kind([p], lr=1.0, **arguments) for name, p in mlps.items()}
    optim, norms, losses = config.optim, [], []
    start = getattr(optim.sparse, "initial_accumulator", 0.0)
    sums = {name: torch.full_like(p, start) for name, p in tables.items()}
    factor = 1.0 if optim.lr_base_batch is None else (BATCH / optim.lr_base_batch) ** 0.5  # by the rule sqrt
    loader = BatchLoader(tiny_source(samples), SampleOrder(samples, global_batch_size=BATCH))
    for step in range(1, steps + 1):
        batch = loader.batch(0, step - 1)
        logits = model(batch.dense.double(), batch.sparse)
        loss = torch.nn.functional.binary_cross_entropy_with_logits(logits, batch.labels.double())
        penalty = sum(rows.square().sum() for rows in looked_up(tables, batch)) / len(batch.labels)
        (loss + optim.embedding_decay / 2 * penalty).backward()
        losses.append(loss.item())
        norm = torch.cat([p.grad.flatten() for p in mlps.values()]).norm()
        if optim.clip_norm is not None and norm > optim.clip_norm:
            for p in mlps.values():
                p.grad *= optim.clip_norm / norm
        norms.append(torch.cat([p.grad.flatten() for p in mlps.values()]).norm().item())
        for name in mlps:
            base = factor * optim.dense.lr * optim.lr_scale.get(rate_group(name), 1.0)
            optimizers[name].param_groups[0]["lr"] = learning_rate(optim.schedule, base, step)
            optimizers[name].step()
        with torch.no_grad():
            for name, table in tables.items():
                base = factor * optim.sparse.lr * optim.lr_scale.get(rate_group(name), 1.0)
                direction = table.grad
                if optim.sparse.kind != "sgd":
                    square = table.grad.square()
                    sums[name] += square if optim.sparse.kind == "adagrad" else square.mean(dim=1, keepdim=True)
                    direction = direction / (sums[name].sqrt() + optim.sparse.eps)
                table -= learning_rate(optim.schedule, base, step) * direction
        model.zero_grad()
    return {name: p.detach() for name, p in model.named_parameters()}, norms, losses


@pytest.mark.parametrize("world_size", [1, 2])
@pytest.mark.parametrize(
    ("dense", "sparse", "options"),
    [
        ("sgd", "sgd", ["train.pipeline=base"]),
        ("adagrad", "adagrad", ["train.pipeline=sparse_dist"]),
        ("adam", "rowwise_adagrad", ["optim.clip_norm=0.05"]),
        (
            "adamw",
            "rowwise_adagrad",
            ["model.interaction={kind: dcn, layers: 2, rank: 4}", "optim.lr_scale.interaction=0.1"],
        ),
        (
            "adagrad",
            "rowwise_adagrad",
            [
                *("optim.sparse.initial_accumulator=0.002", "optim.embedding_decay=0.3", "model.pooling=mean"),
                *("optim.lr_base_batch=4", "optim.lr_rule=sqrt"),
            ],
        ),
    ],
)
def test_every_parameter_is_trained_at_the_rate_of_its_group_and_step(dense, sparse, options, world_size):
    config = config_of(dense, sparse, *options)
    ranks = run_ranks(trained_on_ranks, world_size, config)
    found = assembled([parts for parts, _ in ranks])
    expected, expected_norms, _ = trained_by_hand(config, dense)
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(
            found[name].double(), value, rtol=2e-4, atol=2e-6, msg=lambda text, n=name: f"{n}: {text}"
        )
    for _, norms in ranks:
        assert norms == pytest.approx(expected_norms, rel=1e-4)


def rates_of(rank: int, world_size: int, config: Config, steps: tuple[int, ...]) -> list[dict[str, float]]:
    """Of each table in some steps, as its kernel or optimizer is told."""
    optimizer = build_engine(config, tiny_source(1).schema, this_world()).optimizer
    names = {id(parameter): rate_group(name) for name, parameter in optimizer.params.items()}
    found = []
    for step in steps:
        optimizer.set_step(step)
        found.append({names[id(one)]: group["lr"] for group in optimizer.param_groups for one in group["params"]})
    return found


def test_the_least_rate_of_a_schedule_is_that_of_padded_tables_as_well():
    # Rows of 1 number are padded to 4, whose rate makes up for that by a factor of 1/2. Twice that is the rate of cat_3,
    # whose kernel it cannot share; cat_0 and cat_1 have no kernel.
    config = config_of(
        "sgd",
        "rowwise_adagrad",
        "model.interaction={kind: cat}",
        "model.tables={cat_0: {embedding_dim: 1}, cat_2: {embedding_dim: 1}}",
        "optim.lr_scale={cat_0: 2, cat_1: 1, cat_2: 2}",
        "optim.schedule={warmup_steps: 2, decay_start_step: 3, decay_steps: 3, min_lr: 0.2}",
        "sharding.tables={cat_1: {types: data_parallel}, cat_2: {types: table_wise}, cat_3: {types: table_wise}}",
    )
    expected = {3: (0.3, 0.6), 5: (0.2, 0.2), 50: (0.2, 0.2)}
    (found,) = run_ranks(rates_of, 1, config, tuple(expected))
    for rates, (wide, padded) in zip(found, expected.values(), strict=True):
        assert rates["cat_1"] == pytest.approx(wide)
        assert rates["cat_3"] == pytest.approx(wide)
        assert rates["cat_0"] == pytest.approx(padded / 2)
        assert rates["cat_2"] == pytest.approx(padded / 2)


def test_clipping_leaves_a_gradient_of_exactly_the_norm_asked_for_or_less():
    clipped = trained_by_hand(config_of("sgd", "sgd", "optim.clip_norm=0.05"), "sgd")[1]
    free = trained_by_hand(config_of("sgd", "sgd"), "sgd")[1]
    assert min(free) > 0.05  # or else the test above would show nothing
    assert clipped == pytest.approx([0.05] * STEPS)
    ((_, norms),) = run_ranks(trained_on_ranks, 1, config_of("sgd", "sgd", "optim.clip_norm=0.05"))
    assert norms == pytest.approx([0.05] * STEPS, rel=1e-5)
    ((_, norms),) = run_ranks(trained_on_ranks, 1, config_of("sgd", "sgd", "optim.clip_norm=1000"))
    assert norms == pytest.approx(free, rel=1e-4)


def state_after_reset(rank: int, world_size: int, config: Config) -> tuple[float, float]:
    """Largest table state before and after it is put back to where it started, over all ranks."""
    engine = build_engine(config, tiny_source(1).schema, this_world())
    loader = BatchLoader(
        tiny_source(SAMPLES), SampleOrder(SAMPLES, global_batch_size=BATCH), rank=rank, world_size=world_size
    )

    def largest() -> float:
        values = [0.0]
        for name, state in engine.optimizer.state_dict()["state"].items():
            for value in state.values():
                if "embedding_bags" in name:
                    parts = [s.tensor for s in value.local_shards()] if isinstance(value, ShardedTensor) else [value]
                    values += [float(part.abs().max()) for part in parts if part.numel()]
        return max(ProcessGroup().all_gather_object(max(values)))

    list(engine.stepper.train(loader.batches(0, 0, STEPS), first_step=1))
    before = largest()
    engine.optimizer.reset_table_state()
    return before, largest()


@pytest.mark.parametrize(("sparse", "start"), [("adagrad", 0.25), ("rowwise_adagrad", 0.0)])
def test_the_state_of_every_table_can_be_put_back_to_where_it_started(sparse, start):
    config = config_of("sgd", sparse, f"optim.sparse.initial_accumulator={start}")
    for before, after in run_ranks(state_after_reset, 2, config):
        assert before > start
        assert after == start


def test_a_rate_for_a_group_that_does_not_exist_is_refused_with_the_nearest():
    tables = ["cat_0", "cat_1"]
    check_rate_groups(OptimConfig(lr_scale={"cat_0": 2.0, "top_mlp": 0.5, "bottom_mlp": 1}), GROUPS, tables)
    with pytest.raises(ConfigError) as caught:
        check_rate_groups(OptimConfig(lr_scale={"top_mpl": 2.0, "cat_1": 1.0, "elsewhere": 3.0}), GROUPS, tables)
    assert [str(problem) for problem in caught.value.problems] == [
        "optim.lr_scale.top_mpl: is no group of parameters; did you mean top_mlp?",
        "optim.lr_scale.elsewhere: is no group of parameters; groups are bottom_mlp, interaction, top_mlp and the tables "
        "cat_0 .. cat_1",
    ]


def test_rates_of_what_is_not_there_or_is_two_things_are_refused():
    with pytest.raises(ConfigError, match=r"optim\.lr_scale\.bottom_mlp: is no group"):
        check_rate_groups(OptimConfig(lr_scale={"bottom_mlp": 2.0}), ["top_mlp"], ["a", "b"])
    check_rate_groups(OptimConfig(lr_scale={"top_mlp": 2.0}), GROUPS, ["a", "bottom_mlp"])
    with pytest.raises(ConfigError, match=r"optim\.lr_scale\.top_mlp: is a part of the model as well as a table"):
        check_rate_groups(OptimConfig(lr_scale={"top_mlp": 2.0}), GROUPS, ["a", "top_mlp"])


def test_a_parameter_that_no_optimizer_trains_is_named():
    weight = torch.nn.Parameter(torch.zeros(2))
    optimizer = KeyedOptimizerWrapper({"model.a.weight": weight}, lambda tensors: torch.optim.SGD(tensors, lr=0.1))
    check_all_are_trained(optimizer, ["model.a.weight"])
    with pytest.raises(ValueError, match=r"no optimizer trains model\.b\.weight"):
        check_all_are_trained(optimizer, ["model.a.weight", "model.b.weight"])


def decays(rank: int, world_size: int, config: Config) -> dict[str, float]:
    """The weight decay of every parameter outside of tables."""
    engine = build_engine(config, Schema.numbered(3, (7, 50), tasks=("click", "like")), this_world())
    parts = [part for _, part in engine.optimizer.optimizers if isinstance(part, KeyedOptimizerWrapper)]
    return {short(name): part.param_groups[0]["weight_decay"] for part in parts for name in part.params}


def test_weight_decay_is_of_all_dense_parameters_but_the_weights_of_tasks():
    options = ["optim.dense.kind=adamw", "optim.dense.lr=0.1", "train.task_weighting=uncertainty"]
    (found,) = run_ranks(decays, 1, load_config(None, [*COMMON[:2], *options]))
    assert found.pop("task_weighting.log_variances") == 0.0
    assert set(found.values()) == {0.01}
