"""Models with tables of fewer rows than ranks train as one rank does (law 2): a sample of scripts/fuzz_sharding.py."""

import numpy as np
import pytest

from tests.support.random_models import assembled, random_model, ranks_of, train_models
from tests.support.ranks import run_ranks
from tests.support.training_by_hand import train_by_hand

SEEDS = {  # without sharding/empty_shards.py seed 25 trains wrong silently, and fbgemm refuses the others
    (2, 2): [25, 29, 44],
    (4, 2): [9, 14],
}


@pytest.mark.parametrize(("ranks", "ranks_per_host"), list(SEEDS))
def test_models_of_which_some_ranks_hold_no_row_train_as_computed_by_hand(ranks, ranks_per_host):
    seeds = SEEDS[ranks, ranks_per_host]
    by_rank = run_ranks(train_models, ranks, ranks_per_host, seeds, False)
    for seed, *results in zip(seeds, *by_rank, strict=True):
        assert ranks_of(seed) == (ranks, ranks_per_host)
        losses, tensors = train_by_hand(random_model(seed))
        assert results[0].losses == pytest.approx(losses, rel=1e-5)
        found = assembled(results)
        assert found.keys() == tensors.keys()
        for name, tensor in tensors.items():
            np.testing.assert_allclose(found[name], tensor, atol=1e-5, err_msg=f"{name} of seed {seed}")
