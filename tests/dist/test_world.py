import os
import socket

import torch
import torch.distributed as dist

from dlrm.config.run import DistributedConfig
from dlrm.distributed import devices
from dlrm.distributed.world import joined_world
from tests.support.ranks import run_ranks


def join_from_two_hosts(rank, world_size, port, counts):
    """What a rank computes on when it is the only one of its host, which has so many CUDA devices."""
    dist.barrier()  # or one leaves the group that run_ranks made while the other is still joining it
    dist.destroy_process_group()
    os.environ.update(LOCAL_RANK="0", LOCAL_WORLD_SIZE="1", MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    socket.gethostname = lambda: f"n{rank}"
    torch.cuda.device_count = lambda: counts[rank]
    devices.cuda_fault = lambda index: ""
    with joined_world(DistributedConfig()) as world:
        return str(world.device), world.backend, world.notice, world.collectives.all_gather_object(rank)


def test_hosts_with_and_without_devices_agree_on_cpu():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    notice = "training on CPU: host n1 has 0 CUDA device(s) for 1 rank(s); leave it out to use CUDA"
    assert run_ranks(join_from_two_hosts, 2, port, [1, 0]) == [("cpu", "gloo", notice, [0, 1])] * 2
