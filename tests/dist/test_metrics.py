import pytest
import torch

from dlrm.distributed.collectives import ProcessGroup
from dlrm.errors import DivergedError
from dlrm.metrics.binary import BinaryMetrics
from tests.support.ranks import run_ranks

SIZE = 5000
SHARES = {3: (0, 3100, 3100, SIZE), 2: (0, 1, SIZE)}  # uneven; of three ranks one has nothing


def predictions(bad=False):
    generator = torch.Generator().manual_seed(11)
    logits = torch.randn(SIZE, generator=generator) * 3 - 1
    logits[::3] = logits[::3].round()
    labels = (torch.rand(SIZE, generator=generator) < torch.sigmoid(logits)).float()
    if bad:
        logits[-1] = float("nan")
    return logits, labels


def score(part, capacity, bad=False):
    logits, labels = predictions(bad)
    metrics = BinaryMetrics(torch.device("cpu"), buffer_samples=700, histogram_cells=capacity)
    for logits_B, labels_B in zip(logits[part].split(256), labels[part].split(256), strict=True):
        metrics.update(logits_B, labels_B, torch.ones_like(labels_B))
    return metrics


def reduced_on_rank(rank, world_size, capacity):
    share = SHARES[world_size]
    metrics = score(slice(share[rank], share[rank + 1]), capacity)
    metrics.all_reduce(ProcessGroup())
    return metrics.compute(), metrics.histogram.level, metrics.histogram.cells_C.tolist()


def divergence_on_rank(rank, world_size):
    share = SHARES[world_size]
    metrics = score(slice(share[rank], share[rank + 1]), 10_000, bad=True)
    metrics.all_reduce(ProcessGroup())
    with pytest.raises(DivergedError, match="1 of 5000 predictions"):
        metrics.compute()


@pytest.mark.parametrize(("world_size", "capacity"), [(3, 1000), (3, 100_000), (2, 1000)])
def test_ranks_with_uneven_shares_give_the_auc_of_one_process_bit_for_bit(world_size, capacity):
    alone = score(slice(None), capacity)
    expected = alone.compute()
    for result, level, cells in run_ranks(reduced_on_rank, world_size, capacity):
        assert (level, cells) == (alone.histogram.level, alone.histogram.cells_C.tolist())
        assert result.auc == expected.auc
        assert (result.samples, result.positives, result.accuracy) == (
            expected.samples,
            expected.positives,
            expected.accuracy,
        )
        assert result.log_loss == pytest.approx(expected.log_loss, rel=1e-12)


def test_a_nan_on_one_rank_stops_every_rank():
    run_ranks(divergence_on_rank, 2)
