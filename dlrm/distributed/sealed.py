"""Objects that ranks send to each other: pickled, behind a keyed hash (HMAC-SHA256) of who sent what.

The key is the job's secret, which launch/elastic.py hands to its ranks. Without one, under plain torchrun say, the hash
keeps nobody out, and the network has to (docs/security.md).
"""

from __future__ import annotations

import hmac
import os
import pickle
from typing import Any

from dlrm.errors import SetupError

SECRET_VARIABLE = "DLRM_JOB_SECRET"  # as in launch/signed_store.py
_DIGEST = "sha256"
_DIGEST_BYTES = 32


def seal(value: Any, *, sender: int) -> bytes:
    """``value`` as rank ``sender`` sends it."""
    content = pickle.dumps(value)
    return _digest(content, sender) + content


def unseal(sealed: bytes, *, sender: int) -> Any:
    """What rank ``sender`` has sent.

    Raises:
        SetupError: it was not that rank of this job.
    """
    digest, content = sealed[:_DIGEST_BYTES], sealed[_DIGEST_BYTES:]
    if not hmac.compare_digest(digest, _digest(content, sender)):
        raise SetupError(
            f"what came as rank {sender}'s was not sent by it: {SECRET_VARIABLE} differs between hosts, or a stranger "
            "reaches the ports of the ranks"
        )
    return pickle.loads(content)


def _digest(content: bytes, sender: int) -> bytes:
    secret = os.environ.get(SECRET_VARIABLE, "").encode()
    return hmac.digest(secret, sender.to_bytes(8, "big") + content, _DIGEST)
