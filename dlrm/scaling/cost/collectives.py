"""What a collective takes: latency and bytes, within hosts and between them.

An all-to-all sends to the ranks of a host over its links and to others over the network at once, so the slower of the two
counts. Reduce-scatter, all-gather and all-reduce go around rings (Thakur et al., "Optimization of Collective Communication
Operations in MPICH", 2005; NCCL): every rank sends all there is to its neighbour, an all-reduce twice, and as each of the
rings that NCCL makes leaves a host by an adapter of its own, an adapter carries the part of one rank.
"""

from __future__ import annotations

import math

from dlrm.scaling.cost.rates import Link, Links
from dlrm.scaling.cost.workload import ACROSS, ALL_REDUCE_OP, ALL_TO_ALL, HOST, WORLD, Transfer


def transfer_s(transfer: Transfer, links: Links, domain: int = 1) -> float:
    """Seconds until the last rank is done.

    Args:
        transfer: the collective.
        links: what they go over.
        domain: ranks that reach each other as those of a host do, if these are more.
    """
    per_host, near = transfer.ranks_per_host, max(transfer.ranks_per_host, domain)
    members, together = {
        WORLD: (transfer.ranks, near),
        HOST: (per_host, per_host),
        ACROSS: (transfer.ranks // per_host, near // per_host),
    }[transfer.group]
    together = min(members, together)  # of the members, those that reach each other as those of a host do
    places = -(-members // together)
    inside, between = links.inside[transfer.collective], links.between[transfer.collective]
    bytes_sent = float(max(transfer.sent.max(), transfer.received.max())) * _times(transfer, members)
    if places == 1:
        return transfer.calls * _call_s(inside, members - 1) + bytes_sent / inside.bytes_per_s
    if transfer.collective == ALL_TO_ALL:
        local = (together - 1) / (members - 1)
        call = between.latency_s + inside.peer_s * (together - 1) + between.peer_s * (members - together)
        moved = max(bytes_sent * local / inside.bytes_per_s, bytes_sent * (1 - local) / between.bytes_per_s)
        return transfer.calls * call + moved
    # All ranks of a host use its adapters for one and the same sum.
    call = _call_s(inside, together - 1) + between.latency_s * math.log2(places) + between.peer_s * (places - 1)
    moved = max(bytes_sent / inside.bytes_per_s, bytes_sent / together / between.bytes_per_s)
    return transfer.calls * call + moved


def _call_s(link: Link, others: int) -> float:
    return link.latency_s + link.peer_s * others


def _times(transfer: Transfer, members: int) -> float:
    """How often a rank sends what is reduced; an all-reduce sends all of it twice, but for its own part."""
    return 2 * (members - 1) / members if transfer.collective == ALL_REDUCE_OP else 1.0
