import inspect
from dataclasses import replace

import pytest
import torch
from fbgemm_gpu.split_embedding_configs import EmbOptimType
from fbgemm_gpu.split_table_batched_embeddings_ops_common import EmbeddingLocation
from fbgemm_gpu.split_table_batched_embeddings_ops_training import ComputeDevice, SplitTableBatchedEmbeddingBagsCodegen
from torchrec.distributed.utils import optimizer_type_to_emb_opt_type
from torchrec.modules.embedding_configs import EmbeddingBagConfig
from torchrec.modules.embedding_modules import EmbeddingBagCollection

from dlrm.config.optim import OptimConfig, RowwiseAdagrad, SparseAdagrad, SparseAdam, SparseSgd
from dlrm.errors import ConfigError
from dlrm.models.activations import _Watch
from dlrm.optim.tables.build import check_table_optimizer, fuse_optimizer, table_optimizer
from dlrm.optim.tables.data_parallel import DataParallelTables
from dlrm.sharding.memory import Piece, gradient_bytes

ROWS, DIM, BAGS, STEPS = 40, 8, 16, 6
KINDS = {
    "sgd": (SparseSgd(lr=0.3), EmbOptimType.EXACT_SGD),
    "adagrad": (SparseAdagrad(lr=0.3, eps=1e-3), EmbOptimType.EXACT_ADAGRAD),
    "rowwise_adagrad": (RowwiseAdagrad(lr=0.3, eps=1e-3), EmbOptimType.EXACT_ROWWISE_ADAGRAD),
}


def batches():
    """Ids with duplicates within and between bags, an empty bag, rows that stay untouched, and a bag of zero gradient."""
    generator = torch.Generator().manual_seed(0)
    for _ in range(STEPS):
        lengths = torch.randint(0, 5, (BAGS,), generator=generator)
        lengths[3] = 0
        ids = torch.randint(0, ROWS // 2, (int(lengths.sum()),), generator=generator)
        gradient_BD = torch.randn(BAGS, DIM, generator=generator)
        gradient_BD[5] = 0
        yield ids, torch.cat([torch.zeros(1, dtype=torch.int64), lengths.cumsum(0)]), gradient_BD


def start_weight():
    return torch.randn(ROWS, DIM, generator=torch.Generator().manual_seed(1))


def row_gradients(ids, offsets, gradient_BD):
    """The gradient of every row of a sum-pooled table."""
    bags = torch.repeat_interleave(torch.arange(BAGS), offsets.diff())
    return torch.zeros(ROWS, DIM, dtype=gradient_BD.dtype).index_add_(0, ids, gradient_BD[bags])


def trained_here(config):
    weight = torch.nn.Parameter(start_weight())
    optimizer = DataParallelTables([weight], table_optimizer(config), config.lr)
    for batch in batches():
        weight.grad = row_gradients(*batch)
        optimizer.step()
    return weight.detach(), optimizer.state[weight]


def trained_by_fbgemm(kind, config):
    tables = SplitTableBatchedEmbeddingBagsCodegen(
        [(ROWS, DIM, EmbeddingLocation.HOST, ComputeDevice.CPU)],
        optimizer=kind,
        learning_rate=config.lr,
        eps=getattr(config, "eps", 1e-8),
    )
    (weight,) = tables.split_embedding_weights()
    weight.copy_(start_weight())
    for ids, offsets, gradient_BD in batches():
        tables(ids, offsets).backward(gradient_BD)
    return weight.detach().clone(), [state for table in tables.split_optimizer_states() for state in table]


def trained_by_hand(config):
    """In float64, row by row, as the formulas are written."""
    weight = start_weight().double()
    sums = torch.zeros(ROWS, DIM if isinstance(config, SparseAdagrad) else 1, dtype=torch.float64)
    for ids, offsets, gradient_BD in batches():
        for row, g in enumerate(row_gradients(ids, offsets, gradient_BD.double())):
            if isinstance(config, SparseSgd):
                weight[row] -= config.lr * g
                continue
            sums[row] += g**2 if isinstance(config, SparseAdagrad) else (g**2).mean()
            weight[row] -= config.lr * g / (sums[row].sqrt() + config.eps)
    return weight, sums


@pytest.mark.parametrize("kind", KINDS)
def test_it_trains_as_fbgemm_and_as_the_formulas_in_float64(kind):
    config, fbgemm_kind = KINDS[kind]
    weight, state = trained_here(config)
    expected, expected_states = trained_by_fbgemm(fbgemm_kind, config)
    by_hand, sums_by_hand = trained_by_hand(config)
    torch.testing.assert_close(weight, expected, rtol=2e-6, atol=2e-6)
    torch.testing.assert_close(weight.double(), by_hand, rtol=1e-5, atol=1e-5)
    if "sum" in state:
        (expected_sum,) = expected_states
        torch.testing.assert_close(state["sum"].flatten(), expected_sum.flatten(), rtol=2e-6, atol=1e-6)
        torch.testing.assert_close(state["sum"].flatten().double(), sums_by_hand.flatten(), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_rows_that_no_batch_touches_stay_as_they_are(kind):
    weight, state = trained_here(KINDS[kind][0])
    assert torch.equal(weight[ROWS // 2 :], start_weight()[ROWS // 2 :])
    assert all(value[ROWS // 2 :].eq(0).all() for value in state.values())


@pytest.mark.parametrize(("kind", "shape"), [("sgd", None), ("adagrad", (ROWS, DIM)), ("rowwise_adagrad", (ROWS,))])
def test_all_state_exists_before_the_first_step(kind, shape):
    weight = torch.nn.Parameter(start_weight())
    state = DataParallelTables([weight], table_optimizer(KINDS[kind][0]), 0.1).state[weight]
    assert {name: tuple(value.shape) for name, value in state.items()} == ({"sum": shape} if shape else {})
    assert not any(value.requires_grad for value in state.values())


@pytest.mark.parametrize("kind", KINDS)
def test_a_step_of_data_parallel_tables_takes_the_memory_that_is_said(kind):
    optimizer = table_optimizer(KINDS[kind][0])
    tables = [torch.zeros(rows, 32, requires_grad=True) for rows in (3000, 5000)]
    for table in tables:
        table.grad = torch.ones_like(table)
    of_tables, of_rows = 8000 * 32 * 4, 8000 * 4
    of_data_parallel = DataParallelTables(tables, optimizer, 0.1)
    with _Watch() as watch:
        of_data_parallel.step()
    assert optimizer.temporaries * of_tables <= watch.peak <= optimizer.temporaries * of_tables + 2 * of_rows
    piece = Piece(8000, 32, "data_parallel", "dense", cache_share=0.2, primary=True, hotness=1)
    assert gradient_bytes(piece, optimizer) == max(2 * of_tables, of_tables + optimizer.temporaries * of_tables)
    assert gradient_bytes(replace(piece, sharding="row_wise"), optimizer) == 0


def test_a_table_without_gradient_and_one_with_a_gradient_of_zero_stay_as_they_are():
    for gradient in (None, torch.zeros(ROWS, DIM)):
        weight = torch.nn.Parameter(start_weight())
        weight.grad = gradient
        DataParallelTables([weight], table_optimizer(KINDS["adagrad"][0]), 0.1).step()
        assert torch.equal(weight, start_weight())


def test_the_rate_of_a_step_is_that_of_its_group():
    weight = torch.nn.Parameter(torch.zeros(1, 2))
    optimizer = DataParallelTables([weight], table_optimizer(SparseSgd(lr=99.0)), 0.5)
    for rate, expected in ((0.5, -0.5), (0.25, -0.75)):
        optimizer.param_groups[0]["lr"] = rate
        weight.grad = torch.ones(1, 2)
        optimizer.step()
        assert weight.tolist() == [[expected, expected]]


@pytest.mark.parametrize(
    ("config", "kind", "arguments"),
    [
        (SparseSgd(lr=0.5), EmbOptimType.EXACT_SGD, {}),
        (SparseAdagrad(lr=0.5, eps=1e-3), EmbOptimType.EXACT_ADAGRAD, {"eps": 1e-3}),
        (RowwiseAdagrad(lr=0.5, eps=1e-3), EmbOptimType.EXACT_ROWWISE_ADAGRAD, {"eps": 1e-3}),
        (SparseAdam(lr=0.5, beta1=0.8, eps=1e-3), EmbOptimType.ADAM, {"beta1": 0.8, "beta2": 0.999, "eps": 1e-3}),
    ],
)
def test_every_table_is_marked_with_a_kernel_of_fbgemm_and_arguments_that_it_takes(config, kind, arguments):
    configs = [
        EmbeddingBagConfig(name=name, feature_names=[name], num_embeddings=5, embedding_dim=4) for name in ("a", "b")
    ]
    tables = EmbeddingBagCollection(tables=configs, device=torch.device("meta"))
    weights = {name: tables.embedding_bags[name].weight for name in ("a", "b")}
    fuse_optimizer(weights, table_optimizer(config), OptimConfig(lr_scale={"b": 3.0}))
    for name, rate in (("a", 0.5), ("b", 1.5)):
        (optimizer_class,), (given,) = weights[name]._optimizer_classes, weights[name]._optimizer_kwargs
        assert optimizer_type_to_emb_opt_type(optimizer_class) == kind
        assert given == {"lr": rate, **arguments}
    taken = inspect.signature(SplitTableBatchedEmbeddingBagsCodegen.__init__).parameters
    assert {"learning_rate", *arguments} <= set(taken)


def test_adam_of_tables_on_cpu_is_refused_with_what_there_is_instead():
    with pytest.raises(ConfigError, match=r"optim\.sparse\.kind: is adam.*use rowwise_adagrad, adagrad or sgd"):
        check_table_optimizer(table_optimizer(SparseAdam(lr=0.1)), torch.device("cpu"))
    check_table_optimizer(table_optimizer(SparseAdam(lr=0.1)), torch.device("cuda"))
    for config, _ in KINDS.values():
        check_table_optimizer(table_optimizer(config), torch.device("cpu"))
