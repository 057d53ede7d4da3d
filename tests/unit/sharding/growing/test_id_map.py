import fbgemm_gpu  # noqa: F401  # its operators
import numpy as np
import pytest
import torch

from dlrm.config.model.growing import (
    AdmitAll,
    AdmitSeen,
    EvictAge,
    EvictLfu,
    EvictLru,
    EvictNone,
    GrowingEmbedding,
)
from dlrm.sharding.growing.buckets import MOST_SEEN, NO_ROW
from dlrm.sharding.growing.grouping import grouped
from dlrm.sharding.growing.id_map import IdMap
from tests.support.growing_by_hand import GrowingByHand

ADMISSIONS = [AdmitAll(), AdmitSeen(times=2), AdmitSeen(times=3, candidates=40)]
EVICTIONS = [EvictNone(), EvictLru(), EvictLfu(halve_steps=7), EvictAge(steps=3)]
SIZES = {"rows": 41, "bucket_rows": 9, "fallback_rows": 3}


def stream(steps, seed=0):
    """Ids of steps: some frequent, most of them rare, spread over all of int64."""
    rng = np.random.default_rng(seed)
    spread = rng.integers(0, 2**63 - 1, 400)
    for _ in range(steps):
        yield spread[rng.zipf(1.3, size=rng.integers(0, 60)) % 400].astype(np.int64)


def rows_by_id(id_map, ids, step):
    asked = grouped(ids)
    rows_U, fresh = id_map.assign(asked.ids_U, asked.amounts_U, step)
    rows_U = np.where(rows_U == NO_ROW, id_map.fallback(asked.hashes_U), rows_U)
    return dict(zip(asked.ids_U.tolist(), rows_U.tolist(), strict=True)), fresh.tolist()


@pytest.mark.parametrize("eviction", EVICTIONS, ids=lambda one: one.kind)
@pytest.mark.parametrize("admission", ADMISSIONS, ids=["all", "seen", "seen, few candidates"])
def test_a_map_does_what_the_same_rules_do_in_plain_python(admission, eviction):
    config = GrowingEmbedding(**SIZES, admission=admission, eviction=eviction)
    id_map, by_hand = IdMap("t", config), GrowingByHand(config)
    evicted = 0
    for step, ids in enumerate(stream(60), start=1):
        rows, fresh = rows_by_id(id_map, ids, step)
        expected, expected_fresh = by_hand.step(ids.tolist(), step)
        assert rows == expected
        assert fresh == expected_fresh
        evicted += len(fresh)
        for slots, known in ((id_map.slots, by_hand.slots), (id_map.candidates, by_hand.candidates)):
            for values, name, empty in zip(slots, ("id", "count", "seen"), (-1, 0, 0), strict=True):
                assert values.tolist() == [[getattr(one, name, empty) for one in bucket] for bucket in known]
    assert (evicted > 0) == (eviction.kind != "none")


def test_ids_with_rows_of_their_own_share_them_with_none_and_those_of_a_step_keep_them_in_it():
    config = GrowingEmbedding(**SIZES)
    id_map, parts = IdMap("t", config), iter(stream(120))
    for step in range(1, 41):
        held = {}
        for ids in (next(parts), next(parts), next(parts)):  # micro-batches
            rows, fresh = rows_by_id(id_map, ids, step)
            own = {id_: row for id_, row in rows.items() if row < config.own_rows}
            assert not set(fresh) & set(held.values())
            held |= own
            assert len(set(held.values())) == len(held)
            assert set(rows.values()) <= set(range(config.rows))


@pytest.mark.parametrize("ranks", [2, 3, 5])
def test_the_buckets_of_any_number_of_ranks_are_those_of_one(ranks):
    config = GrowingEmbedding(**SIZES, admission=AdmitSeen(), eviction=EvictLfu())
    whole, parts = IdMap("t", config), [IdMap("t", config, rank, ranks) for rank in range(ranks)]
    for step, ids in enumerate(stream(40), start=1):
        asked = grouped(ids)
        expected, expected_fresh = whole.assign(asked.ids_U, asked.amounts_U, step)
        cuts = parts[0].first_of_ranks(asked.hashes_U)
        found = [
            part.assign(asked.ids_U[start:stop], asked.amounts_U[start:stop], step)
            for part, start, stop in zip(parts, cuts[:-1], cuts[1:], strict=True)
        ]
        assert np.concatenate([rows for rows, _ in found]).tolist() == expected.tolist()
        assert np.concatenate([fresh for _, fresh in found]).tolist() == expected_fresh.tolist()
    for name, shape, values in whole.state:
        pieces = [tensor for part in parts for other, _, tensor in part.state if other == name]
        assert shape == tuple(values.shape)
        assert torch.equal(torch.cat(pieces), values)


def test_looking_up_changes_nothing_and_fbgemm_finds_each_id_in_the_same_row():
    config = GrowingEmbedding(**SIZES)
    id_map = IdMap("t", config)
    for step, ids in enumerate(stream(30), start=1):
        rows_by_id(id_map, ids, step)
    before = [values.clone() for _, _, values in id_map.state]
    asked = grouped(np.unique(np.concatenate(list(stream(30)))))
    rows_U = id_map.look_up(asked.ids_U)
    assert all(map(torch.equal, before, [values for _, _, values in id_map.state]))
    assert 0 < (rows_U == NO_ROW).sum() < len(rows_U)
    bucket_U = torch.tensor([(bits >> 32) * config.buckets >> 32 for bits in asked.hashes_U.tolist()])
    found, _ = torch.ops.fbgemm.zero_collision_hash(
        input=torch.from_numpy(asked.ids_U),
        identities=torch.from_numpy(id_map.slots.ids.reshape(-1, 1)),
        max_probe=config.ways,
        circular_probe=True,
        readonly=True,
        local_sizes=torch.full_like(bucket_U, config.ways),
        offsets=bucket_U * config.ways,
        disable_fallback=True,
    )
    assert found.tolist() == rows_U.tolist()


def test_counts_end_at_the_largest_that_is_held_and_a_map_forgets_all():
    id_map = IdMap("t", GrowingEmbedding(rows=9, bucket_rows=4))
    for step in (1, 2):
        id_map.assign(np.array([7]), np.array([MOST_SEEN - 1]), step)
    assert id_map.slots.counts.max() == MOST_SEEN
    id_map.forget()
    fresh = IdMap("t", id_map.config)
    assert all(torch.equal(one, other) for (_, _, one), (_, _, other) in zip(id_map.state, fresh.state, strict=True))


def test_ids_are_grouped_in_the_order_of_their_hashes_with_what_they_count():
    asked = grouped(np.array([5, 3, 5, 5]), np.array([1, 10, 100, 1000]))
    assert dict(zip(asked.ids_U.tolist(), asked.amounts_U.tolist(), strict=True)) == {5: 1101, 3: 10}
    assert asked.ids_U[asked.place_N].tolist() == [5, 3, 5, 5]
    assert asked.hashes_U.tolist() == sorted(asked.hashes_U.tolist())
