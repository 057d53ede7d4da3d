"""fbgemm's CPU kernels, some of whose tables have no row, against the same by hand in float64."""

import numpy as np
import pytest
import torch
from fbgemm_gpu.split_embedding_configs import EmbOptimType
from fbgemm_gpu.split_table_batched_embeddings_ops_common import EmbeddingLocation
from fbgemm_gpu.split_table_batched_embeddings_ops_training import ComputeDevice, SplitTableBatchedEmbeddingBagsCodegen

from dlrm.sharding.empty_shards import keep_empty_shards_apart

RATE, EPS, BAGS, STEPS = 0.1, 1e-8, 5, 3
OPTIMIZERS = [EmbOptimType.EXACT_SGD, EmbOptimType.EXACT_ADAGRAD, EmbOptimType.EXACT_ROWWISE_ADAGRAD]
TABLES = [  # rows, width
    [(0, 4), (3, 8)],
    [(0, 8), (3, 4)],
    [(3, 8), (0, 8)],
    [(0, 4), (0, 8), (2, 8), (0, 4), (1, 16), (0, 16), (0, 4)],
    [(0, 8)],
    [(0, 8), (0, 4)],
    [(2, 4), (1, 8)],
]


def kernel_of(tables, optimizer, feature_table_map=None):
    specs = [(rows, dim, EmbeddingLocation.HOST, ComputeDevice.CPU) for rows, dim in tables]
    kernel = SplitTableBatchedEmbeddingBagsCodegen(
        specs, feature_table_map=feature_table_map, optimizer=optimizer, learning_rate=RATE, eps=EPS
    )
    for table, weight_RD in enumerate(kernel.split_embedding_weights()):
        weight_RD.copy_(weights(table, tables[table]))
    keep_empty_shards_apart(kernel)
    return kernel


def weights(table, shape):
    return torch.arange(shape[0] * shape[1]).add(table).sin().view(shape)


def bags(random, rows):
    """0 to 3 ids for each bag; none at all of a table without rows."""
    lengths_B = random.integers(0, 4, BAGS) * (rows > 0)
    return lengths_B, random.integers(0, max(1, rows), lengths_B.sum())


def step_by_hand(weight_RD, sums_RD, gradient_RD, optimizer):
    if optimizer == EmbOptimType.EXACT_SGD:
        weight_RD -= RATE * gradient_RD
        return
    square_RD = np.square(gradient_RD)
    row_wise = optimizer == EmbOptimType.EXACT_ROWWISE_ADAGRAD
    sums_RD += square_RD.mean(axis=1, keepdims=True) if row_wise else square_RD
    weight_RD -= RATE * gradient_RD / (np.sqrt(sums_RD) + EPS)


@pytest.mark.parametrize("optimizer", OPTIMIZERS, ids=lambda kind: kind.name)
@pytest.mark.parametrize("tables", TABLES, ids=str)
def test_tables_beside_empty_shards_are_looked_up_and_trained_each_with_its_own_rows_and_width(tables, optimizer):
    kernel = kernel_of(tables, optimizer)
    expected = [weights(table, shape).double().numpy() for table, shape in enumerate(tables)]
    sums = [np.zeros(shape) for shape in tables]
    random = np.random.default_rng(0)
    for _ in range(STEPS):
        of_tables = [bags(random, rows) for rows, _ in tables]
        gradients = [random.standard_normal((BAGS, dim)).astype(np.float32) for _, dim in tables]
        ids_N = torch.from_numpy(np.concatenate([ids_N for _, ids_N in of_tables]))
        ends = np.cumsum(np.concatenate([lengths_B for lengths_B, _ in of_tables]))
        pooled_BX = kernel(ids_N, torch.from_numpy(np.concatenate([[0], ends])))
        counts = [np.zeros((BAGS, rows)) for rows, _ in tables]
        for count_BR, (lengths_B, ids_of_table_N) in zip(counts, of_tables, strict=True):
            np.add.at(count_BR, (np.arange(BAGS).repeat(lengths_B), ids_of_table_N), 1)
        by_hand_BX = np.concatenate([count @ weight for count, weight in zip(counts, expected, strict=True)], axis=1)
        np.testing.assert_allclose(pooled_BX.detach().numpy(), by_hand_BX, rtol=1e-5, atol=1e-6)
        pooled_BX.backward(torch.from_numpy(np.concatenate(gradients, axis=1)))
        for weight, state, count, gradient in zip(expected, sums, counts, gradients, strict=True):
            step_by_hand(weight, state, count.T @ gradient, optimizer)
    for found_RD, expected_RD in zip(kernel.split_embedding_weights(), expected, strict=True):
        np.testing.assert_allclose(found_RD.numpy(), expected_RD, rtol=1e-5, atol=1e-6)


def test_a_kernel_without_empty_shards_stays_as_it_is():
    kernel = kernel_of([(2, 4), (1, 8)], EmbOptimType.EXACT_SGD)
    assert kernel.hash_size_cumsum.tolist() == [0, 2, 3]


def test_features_that_share_a_table_go_on_sharing_it():
    kernel = kernel_of([(2, 4), (0, 8), (3, 4)], EmbOptimType.EXACT_SGD, feature_table_map=[0, 0, 1, 2])
    assert kernel.hash_size_cumsum.tolist() == [0, 0, 2, 3, 6]
