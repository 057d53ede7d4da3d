"""Texts as gloo, torch 2.13 and NCCL 2.27 have them."""

import pytest
import torch.distributed as dist

from dlrm.command.failure import judge
from dlrm.distributed import faults

NCCL = "NCCL error in: /pytorch/torch/csrc/distributed/c10d/NCCLUtils.cpp:94, {}, NCCL version 2.27.7\n{}"
SYSTEM = "ncclSystemError: System call (e.g. socket, malloc) or external library call failed or device error. "
UNHANDLED = "unhandled system error (run with NCCL_DEBUG=INFO for details)"
REMOTE = "ncclRemoteError: A call failed possibly due to a network error or a remote process exiting prematurely.\n"
SHARED_MEMORY = (
    "Error while creating shared memory segment /dev/shm/nccl-a (size 9637888), error: No space left on device"
)
DUPLICATE = "Duplicate GPU detected : rank 1 and rank 0 both on CUDA device 18000"
USAGE = "ncclInvalidUsage: This usually reflects invalid usage of NCCL library.\nLast error:\n"

OWN = [
    dist.DistBackendError(NCCL.format(UNHANDLED, SYSTEM)),
    dist.DistBackendError(NCCL.format(UNHANDLED, f"{SYSTEM}\nLast error:\n{SHARED_MEMORY}")),
    dist.DistBackendError(NCCL.format("invalid usage", f"{USAGE}{DUPLICATE}")),
    dist.DistBackendError(
        NCCL.format("internal error", f"{SYSTEM}\nLast error:\nBootstrap : no socket interface found")
    ),
    dist.DistBackendError(NCCL.format("unhandled cuda error", "ncclUnhandledCudaError: Call to CUDA function failed.")),
    dist.DistNetworkError(
        "The server socket has failed to listen on any local network address. port: 29500, useIpv6: false, code: -98"
    ),
    RuntimeError("[enforce fail at gloo/transport/tcp/device.cc:84] ifa != nullptr. Unable to find address for: eth9"),
    RuntimeError("unable to open shared memory object </torch_1_2_0> in read-write mode: No space left on device (28)"),
]
OF_PEERS = [
    dist.DistBackendError(NCCL.format("remote process exited or there was a network error", REMOTE)),
    dist.DistBackendError(
        NCCL.format(UNHANDLED, f"{SYSTEM}\nLast error:\nsocketPollConnect: 10.0.0.2<4> returned Connection refused")
    ),
    dist.DistBackendError("NCCL communicator was aborted on rank 0."),
    dist.DistNetworkError("recvValue failed on SocketImpl(fd=3): Connection reset by peer"),
    RuntimeError("[gloo/transport/tcp/pair.cc:553] Connection closed by peer [127.0.0.1]:38312."),
]
SLOW_PEERS = [
    dist.DistStoreError("wait timeout after 300000ms, keys: /default_pg/0//cuda//0"),
    RuntimeError("[gloo/transport/tcp/unbound_buffer.cc:78] Timed out waiting 600000ms for recv operation to complete"),
]


@pytest.mark.parametrize("error", OWN, ids=str)
def test_what_was_wrong_on_this_rank_is_a_cause(error):
    of_the_user = any(mark in str(error) for mark in ("/dev/shm", DUPLICATE))
    assert judge(error, rank=1, world_size=2).kind == ("user" if of_the_user else "bug")


@pytest.mark.parametrize("error", OF_PEERS, ids=str)
def test_what_another_rank_left_behind_is_a_consequence(error):
    assert judge(error, rank=1, world_size=2).kind == "peer"


@pytest.mark.parametrize("error", SLOW_PEERS, ids=str)
def test_what_waited_in_vain_is_a_consequence_as_well(error):
    assert judge(error, rank=1, world_size=2).kind == "timeout"
    assert faults.is_of_peer(str(error))


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (OWN[1], "rank 1: shared memory is too small; give /dev/shm more (docker run --shm-size=8g)"),
        (
            OWN[2],
            "rank 1: two ranks have the same GPU; start one rank a GPU, "
            "each with a LOCAL_RANK of its own (torchrun sets it)",
        ),
        (RuntimeError("first\nsecond"), "rank 1 failed: RuntimeError: first"),
        (RuntimeError(), "rank 1 failed: RuntimeError"),
    ],
    ids=str,
)
def test_the_line_says_what_was_wrong(error, line):
    assert judge(error, rank=1, world_size=2).line == line


def test_a_detail_that_is_missing_is_not_looked_for():
    assert faults.told(RuntimeError("Last error:")) == "Last error:"
