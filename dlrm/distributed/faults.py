"""What gloo, NCCL and the stores say when they fail: because of another rank, or for a reason of this one's.

They raise few types of errors, so their texts decide. Free of torch.
"""

from __future__ import annotations

# It is the other side that left.
_OF_PEERS = (
    "Connection closed by",
    "Connection reset by peer",
    "Connection refused",
    "Broken pipe",
    "Socket closed",
    "gloo/transport/",
    "Connection timed out",
    "No route to host",
    "Software caused connection abort",
    "NCCL communicator was aborted",
    "ncclRemoteError",
    "ncclSystemError",
)
# It is there, but stuck or too slow.
_OF_SLOW_PEERS = (
    "Timed out waiting",
    "Application timeout caused pair closure",
    "wait timeout after",
    "Watchdog caught collective operation timeout",
    "failed to pass monitoredBarrier",
)
# It is this process that cannot: no interface, no port, no memory, no file; whatever else the text says.
_OWN = (
    "gloo/transport/tcp/device.cc",
    "Unable to find address for",
    "The server socket has failed to",
    "cannot be retrieved (gai error",
    "no socket interface found",
    "shared memory",
    "No space left on device",
    "Too many open files",
    "Cannot allocate memory",
    "out of memory",
    "Duplicate GPU detected",
)
_NCCL_RESULTS = (  # of NCCL's results, those that another rank's end does not bring about
    "ncclUnhandledCudaError",
    "ncclInternalError",
    "ncclInvalidArgument",
    "ncclInvalidUsage",
)
_NCCL_DETAIL = "Last error:"


def is_of_peer(text: str) -> bool:
    """Whether an error's text says that another rank left or did not answer, and nothing that was wrong here."""
    return not is_own(text) and any(mark in text for mark in (*_OF_PEERS, *_OF_SLOW_PEERS))


def is_timeout(text: str) -> bool:
    """Whether an error's text says that another rank did not answer in time."""
    return not is_own(text) and any(mark in text for mark in _OF_SLOW_PEERS)


def is_own(text: str) -> bool:
    """Whether an error's text says what was wrong on this rank: a cause, not the consequence of another rank's end."""
    if any(mark in text for mark in (*_OWN, *_NCCL_RESULTS)):
        return True
    # NCCL's system errors are both, a full /dev/shm and a connection that broke; the detail tells them apart.
    if "ncclSystemError" not in text:
        return False
    detail = text.partition(_NCCL_DETAIL)[2] or text.replace("ncclSystemError", "")
    return not any(mark in detail for mark in (*_OF_PEERS, *_OF_SLOW_PEERS))


def told(error: BaseException) -> str:
    """The line of an error's text that says what was wrong; its first line where none is known to."""
    lines = [line.strip() for line in str(error).strip().splitlines()] or [""]
    if _NCCL_DETAIL in lines[:-1]:
        return lines[lines.index(_NCCL_DETAIL) + 1] or lines[0]
    return lines[0]
