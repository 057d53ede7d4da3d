"""Packed data on several ranks: the same global batches, and the same error."""

import os
from functools import partial
from itertools import chain

import numpy as np
import pytest
import torch

from dlrm.config.data.packed import PackedData
from dlrm.data.batch import Batch
from dlrm.data.loader import BatchLoader
from dlrm.data.order import SampleOrder
from dlrm.data.packed.dataset import packed_dataset
from dlrm.distributed.collectives import ProcessGroup, together
from dlrm.errors import DataError
from tests.support.ranks import run_ranks
from tests.unit.data.packed.packed_files import ROWS, write_days

SIZES = (150, 0, 120, 30)
BATCH = 40  # of 270 training samples: the last global batch holds 30
ORDERS = {
    "stored": {},
    "shuffled": {"shuffle": True},
    "in blocks": {"shuffle": True, "block_samples": 16, "window_blocks": 4},
}


def samples_of(batch: Batch) -> list[tuple]:
    """Label, dense values and bags of each sample, without padding."""
    bags = [batch.sparse[name].to_dense() for name in batch.sparse.keys()]  # noqa: SIM118 - no dict
    return [
        (batch.labels[i].item(), tuple(batch.dense[i].tolist()), tuple(tuple(bag[i].tolist()) for bag in bags))
        for i in range(int(batch.weights.sum()))
    ]


def read_all(rank: int, world_size: int, folder: str) -> dict[str, list[list[tuple]]]:
    """The rank's samples by global batch, in every order, one-hot and multi-hot."""
    found = {}
    for multi_hot in ("one_hot", "files"):
        config = PackedData(path=folder, rows=ROWS, multi_hot={"kind": multi_hot})
        source = together(ProcessGroup(), partial(packed_dataset, config)).train
        for name, options in ORDERS.items():
            order = SampleOrder(source.num_samples, global_batch_size=BATCH, seed=3, **options)
            loader = BatchLoader(source, order, rank=rank, world_size=world_size)
            found[f"{multi_hot}, {name}"] = [samples_of(batch) for batch in loader.batches(1, 0, order.num_batches)]
    return found


def test_ranks_batches_concatenate_to_the_same_global_batches(tmp_path):
    parts = write_days(tmp_path, SIZES, multi_hot=True)
    (alone,), *others = (run_ranks(read_all, world_size, str(tmp_path)) for world_size in (1, 2, 3))
    for case, global_batches in alone.items():
        assert [len(batch) for batch in global_batches] == [40] * 6 + [30]
        seen = sorted(dense for batch in global_batches for _, dense, _ in batch)
        stored = np.concatenate([part.dense_MN for part in parts[:3]])
        assert seen == sorted(map(tuple, torch.from_numpy(stored).tolist())), "every sample once"
        for by_rank in others:
            parts_of_batches = zip(*(of_rank[case] for of_rank in by_rank), strict=True)
            assert [list(chain(*parts_of_batch)) for parts_of_batch in parts_of_batches] == global_batches


def open_damaged(rank: int, world_size: int, folder: str) -> str:
    """Rank 1 sees another folder than rank 0, as if its host's copy were damaged."""
    config = PackedData(path=os.path.join(folder, str(rank)), rows=ROWS)
    with pytest.raises(DataError) as caught:
        together(ProcessGroup(), lambda: packed_dataset(config))
    ProcessGroup().barrier()  # the ranks are still in step
    return str(caught.value)


@pytest.mark.parametrize("damaged", [[1], [0, 1]])
def test_a_damaged_file_is_the_same_line_on_every_rank(tmp_path, damaged):
    for rank in (0, 1):
        (tmp_path / str(rank)).mkdir()
        write_days(tmp_path / str(rank), SIZES)
    for rank in damaged:
        os.truncate(tmp_path / str(rank) / "day_2_sparse.npy", 1000)
    first, second = run_ranks(open_damaged, 2, str(tmp_path))
    assert first == second
    assert first.startswith(f"{tmp_path}/{damaged[0]}/day_2_sparse.npy: is truncated: 120 x 3 int32 are 1,440 bytes")
