"""What collectives take, by hand: inside 2 us a call, 0.5 us a rank, 100 GB/s; between hosts 10 us, 1 us, 10 GB/s."""

import itertools
from dataclasses import replace

import numpy as np
import pytest

from dlrm.scaling.cost.collectives import transfer_s
from tests.unit.scaling.cost.machines import COLLECTIVES, GB, LINKS, MB, US, transfer


@pytest.mark.parametrize(
    ("what", "seconds"),
    [
        # A host of 8.
        (transfer("all_to_all", 100 * MB, 8, 8), 2 * US + 7 * 0.5 * US + 0.1 / 100),
        (transfer("all_to_all", 100 * MB, 8, 8, calls=3), 3 * (2 * US + 7 * 0.5 * US) + 0.1 / 100),
        (transfer("reduce_scatter", 100 * MB, 8, 8), 2 * US + 7 * 0.5 * US + 0.1 / 100),
        (transfer("all_reduce", 100 * MB, 8, 8), 2 * US + 7 * 0.5 * US + 2 * 7 / 8 * 0.1 / 100),
        # Four hosts of 8: of 31 others 7 are near; the network has 24 of 31 parts, and takes longer.
        (transfer("all_to_all", 31 * MB, 32, 8), 10 * US + 7 * 0.5 * US + 24 * US + 0.024 / 10),
        (
            transfer("all_reduce", 100 * MB, 32, 8),
            (2 + 7 * 0.5) * US + 2 * 10 * US + 3 * US + max(2 * 31 / 32 * 0.1 / 100, 2 * 31 / 32 * 0.1 / 8 / 10),
        ),
        (transfer("reduce_scatter", 100 * MB, 32, 8), (2 + 3.5 + 20 + 3) * US + max(0.1 / 100, 0.1 / 8 / 10)),
        # Of hosts alone, and of the ranks with one number on each.
        (transfer("reduce_scatter", 100 * MB, 32, 8, group="host"), 2 * US + 7 * 0.5 * US + 0.1 / 100),
        (transfer("all_to_all", 100 * MB, 32, 8, group="across"), 10 * US + 3 * US + 0.1 / 10),
        # A rank a host.
        (transfer("all_to_all", 100 * MB, 4, 1), 10 * US + 3 * US + 0.1 / 10),
        (transfer("all_reduce", 100 * MB, 4, 1), (2 + 20 + 3) * US + 2 * 3 / 4 * 0.1 / 10),
    ],
)
def test_by_hand(what, seconds):
    assert transfer_s(what, LINKS) == pytest.approx(seconds)


def test_ranks_of_many_hosts_in_one_domain_reach_each_other_inside():
    whole = transfer("all_to_all", 63 * MB, 64, 4)
    assert transfer_s(whole, LINKS, domain=72) == pytest.approx(2 * US + 63 * 0.5 * US + 0.063 / 100)
    across = transfer("all_to_all", 63 * MB, 64, 4, group="across")
    assert transfer_s(across, LINKS, domain=72) == pytest.approx(2 * US + 15 * 0.5 * US + 0.063 / 100)
    host = transfer("reduce_scatter", 63 * MB, 64, 4, group="host")
    assert transfer_s(host, LINKS, domain=72) == transfer_s(host, LINKS)


def test_ranks_of_two_domains_have_the_network_between_them():
    """128 ranks in domains of 72: 71 others are near, 56 are not."""
    whole = transfer("all_to_all", 127 * MB, 128, 4)
    seconds = 10 * US + 71 * 0.5 * US + 56 * US + max(0.071 / 100, 0.056 / 10)
    assert transfer_s(whole, LINKS, domain=72) == pytest.approx(seconds)
    # 32 hosts, 18 to a domain.
    across = transfer("all_to_all", 31 * MB, 128, 4, group="across")
    assert transfer_s(across, LINKS, domain=72) == pytest.approx(10 * US + 17 * 0.5 * US + 14 * US + 0.014 / 10)
    summed = transfer("all_reduce", 100 * MB, 128, 4)
    moved = 2 * 127 / 128 * 0.1 * max(1 / 100, 1 / 72 / 10)
    assert transfer_s(summed, LINKS, domain=72) == pytest.approx((2 + 71 * 0.5 + 10 + 1) * US + moved)


def test_the_busiest_rank_decides_whether_it_sends_or_receives():
    even = transfer("all_to_all", 10 * MB, 4, 4)
    uneven = np.array([10 * MB, 0, 0, 90 * MB])
    for way in ("sent", "received"):
        seconds = transfer_s(replace(even, **{way: uneven}), LINKS)
        assert seconds - transfer_s(even, LINKS) == pytest.approx(80 * MB / (100 * GB))


SHAPES = [(2, 2), (4, 2), (8, 8), (16, 8), (64, 8), (128, 8), (512, 8)]


@pytest.mark.parametrize("domain", [1, 16, 72])
@pytest.mark.parametrize("group", ["world", "host", "across"])
@pytest.mark.parametrize("name", COLLECTIVES)
def test_more_bytes_take_longer_and_nothing_is_negative(name, group, domain):
    for ranks, per_host in SHAPES:
        times = [
            transfer_s(transfer(name, size, ranks, per_host, group=group), LINKS, domain) for size in (0, 1, MB, GB)
        ]
        assert all(seconds >= 0 for seconds in times)
        assert times == sorted(times)
        if group == "world":
            assert times[3] > times[2] > times[0] > 0


@pytest.mark.parametrize("size", [1.0, GB])
@pytest.mark.parametrize("name", COLLECTIVES)
def test_more_hosts_take_longer(name, size):
    """As many bytes of each rank, but for its own part."""
    times = [
        transfer_s(transfer(name, size * (1 if name == "all_reduce" else (ranks - 1) / ranks), ranks, 8), LINKS)
        for ranks in (8, 16, 32, 64, 256, 1024)
    ]
    assert all(before < after for before, after in itertools.pairwise(times))
