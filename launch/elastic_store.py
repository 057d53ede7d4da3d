"""The store through which the ranks of one start find each other, kept by the launcher of the first host.

Kept by rank 0, as where torch's sharing is turned off, it ends with rank 0, and a rank that still looks into it fails in
a job that has succeeded. torch's shared one, in the launcher, lives on when ranks are started again, and with it the
addresses of those that died: a new rank that reads one before it is replaced waits for an answer from nobody (seen with
torch 2.13 and gloo). Here it is the launcher's, and each start has a new one.
"""

from __future__ import annotations

import os
from typing import Any


def keep_stores() -> None:
    """Have torchelastic's rendezvous open a store for every start of the ranks.

    Ranks also wait for each other at the end of ``init_process_group``: one that has nothing else to do would leave while
    another still connects to it.
    """
    from torch.distributed.elastic.rendezvous import dynamic_rendezvous

    os.environ["TORCH_DISABLE_SHARE_RDZV_TCP_STORE"] = "0"
    os.environ.setdefault("TORCH_DIST_INIT_BARRIER", "1")
    handler_class: Any = dynamic_rendezvous.DynamicRendezvousHandler
    join = handler_class.next_rendezvous

    def joined(handler: Any) -> Any:
        handler._bootstrap_store_info = handler._shared_tcp_store_server = None
        return join(handler)

    handler_class.next_rendezvous = joined
