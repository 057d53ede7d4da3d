"""What a collective takes: latency and bytes, within hosts and between them.

An all-to-all sends to the ranks of a host over its links and to others over the network at once, so the slower of the two
counts. Reduce-scatter, all-gather and all-reduce go around rings (Thakur et al., "Optimization of Collective Communication
Operations in MPICH", 2005; NCCL): every rank sends all there is to its neighbour, an all-reduce twice, and as each of the
rings that NCCL makes leaves a host by an adapter of its own, an adapter carries the part of one rank.
"""

from __future__ import annotations

import math

from dlrm.scaling.cost.rates import Link, Links
from dlrm.scaling.cost.workload import ACROSS, ALL_REDUCE_OP, ALL_TO_ALL, HOST, Transfer


def transfer_s(transfer: Transfer, links: Links, domain: int = 1) -> float:
    """Seconds until the last rank is done.

    Args:
        transfer: the collective.
        links: what they go over.
        domain: ranks that reach each other as those of a host do, if these are more.
    """
    ranks = transfer.ranks
    ranks_per_host = min(ranks, max(transfer.ranks_per_host, domain))
    inside, between = links.inside[transfer.collective], links.between[transfer.collective]
    hosts = -(-ranks // ranks_per_host)
    busiest = float(max(transfer.sent.max(), transfer.received.max()))
    if transfer.group == HOST or hosts == 1:
        return _flat_s(transfer, busiest, inside, transfer.ranks_per_host if transfer.group == HOST else ranks)
    if transfer.group == ACROSS:
        return _flat_s(transfer, busiest, between, hosts)
    if transfer.collective == ALL_TO_ALL:
        local = (ranks_per_host - 1) / (ranks - 1)
        call = between.latency_s + inside.peer_s * (ranks_per_host - 1) + between.peer_s * (ranks - ranks_per_host)
        moved = max(busiest * local / inside.bytes_per_s, busiest * (1 - local) / between.bytes_per_s)
        return transfer.calls * call + moved
    # All ranks of a host use its adapters for one and the same sum.
    call = _call_s(inside, ranks_per_host - 1) + between.latency_s * math.log2(hosts) + between.peer_s * (hosts - 1)
    times = _times(transfer, ranks)
    moved = max(busiest * times / inside.bytes_per_s, busiest * times / ranks_per_host / between.bytes_per_s)
    return transfer.calls * call + moved


def _flat_s(transfer: Transfer, busiest: float, link: Link, ranks: int) -> float:
    return transfer.calls * _call_s(link, ranks - 1) + busiest * _times(transfer, ranks) / link.bytes_per_s


def _call_s(link: Link, others: int) -> float:
    return link.latency_s + link.peer_s * others


def _times(transfer: Transfer, ranks: int) -> float:
    """How often a rank sends what is reduced; an all-reduce sends all of it twice, but for its own part."""
    return 2 * (ranks - 1) / ranks if transfer.collective == ALL_REDUCE_OP else 1.0
