import os
import socket
import subprocess
import sys
import threading
import time
from contextlib import ExitStack
from datetime import timedelta
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from dlrm.command.failure import judge
from dlrm.config.run import DistributedConfig
from dlrm.distributed import world
from dlrm.distributed.world import RankInfo, choose_backend, joined_world, leave_together
from dlrm.errors import SetupError

PROJECT = Path(__file__).resolve().parents[3]
LAUNCHED = {
    "RANK": "5",
    "WORLD_SIZE": "8",
    "LOCAL_RANK": "1",
    "LOCAL_WORLD_SIZE": "4",
    "MASTER_ADDR": "127.0.0.1",
    "MASTER_PORT": "29500",
}
CPU, CUDA = torch.device("cpu"), torch.device("cuda", 0)


# The environment


def test_without_a_launcher_this_is_the_only_process():
    assert RankInfo.from_environment({}) == RankInfo(0, 1, 0, 1)
    assert RankInfo.from_environment({"MASTER_ADDR": "x", "LOCAL_RANK": "3"}) == RankInfo(0, 1, 0, 1)


def test_the_place_is_what_the_launcher_says():
    assert RankInfo.from_environment(LAUNCHED) == RankInfo(rank=5, world_size=8, local_rank=1, local_world_size=4)


@pytest.mark.parametrize(
    "missing", ["RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"]
)
def test_half_an_environment_names_what_is_missing(missing):
    environment = {name: value for name, value in LAUNCHED.items() if name != missing}
    with pytest.raises(SetupError, match=rf"^{missing} is not set although .*; start ranks with torchrun or torchx$"):
        RankInfo.from_environment(environment)


@pytest.mark.parametrize(
    "changes",
    [
        {"RANK": "8"},
        {"RANK": "-1"},
        {"LOCAL_RANK": "4"},
        {"WORLD_SIZE": "0"},
        {"RANK": "one"},
        {"WORLD_SIZE": ""},
        {"LOCAL_RANK": "1.0"},
        {"RANK": "0"},  # and yet the second of its host
        {"WORLD_SIZE": "6", "LOCAL_WORLD_SIZE": "7"},
    ],
)
def test_an_environment_that_contradicts_itself_is_one_line_with_the_values(changes):
    with pytest.raises(SetupError) as caught:
        RankInfo.from_environment(LAUNCHED | changes)
    assert all(f"'{name}': '{value}'" in str(caught.value) for name, value in changes.items())
    assert "\n" not in str(caught.value)


# Backends


@pytest.mark.parametrize(
    ("asked", "device", "expected"),
    [
        ("auto", CPU, "gloo"),
        ("gloo", CPU, "gloo"),
        ("auto", CUDA, "cpu:gloo,cuda:nccl"),
        ("nccl", CUDA, "cpu:gloo,cuda:nccl"),
        ("gloo", CUDA, "gloo"),
    ],
)
def test_the_backend_fits_the_device(asked, device, expected):
    assert choose_backend(DistributedConfig(backend=asked), device) == expected


def test_nccl_on_cpu_is_refused():
    with pytest.raises(SetupError, match="backend is nccl, which needs CUDA"):
        choose_backend(DistributedConfig(backend="nccl"), CPU)


# Joining


@pytest.fixture
def alone(monkeypatch):
    """No launcher; whatever the test leaves of a process group is taken down."""
    for name in LAUNCHED:
        monkeypatch.delenv(name, raising=False)
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)
    if dist.is_initialized():
        dist.destroy_process_group()


def test_one_process_joins_alone_without_a_network_and_leaves_in_order(alone):
    with joined_world(DistributedConfig(device="cpu", threads_per_rank=1)) as joined:
        assert (joined.rank, joined.size, joined.is_leader) == (0, 1, True)
        assert (joined.device, joined.backend) == (CPU, "gloo")
        assert joined.collectives.all_gather_object("x") == ["x"]
        assert torch.get_num_threads() == 1
    assert not dist.is_initialized()


@pytest.mark.parametrize(
    ("kind", "backend", "told"),
    [("cuda", "auto", torch.device("cuda", 0)), ("cuda", "gloo", None), ("cpu", "auto", None)],
)
def test_nccl_is_told_its_device_from_the_start(alone, monkeypatch, kind, backend, told):
    given = {}
    monkeypatch.setattr(world, "_choose_device", lambda *_: world.devices.Choice(kind))
    monkeypatch.setattr(torch.cuda, "set_device", lambda device: None)
    monkeypatch.setattr(dist, "init_process_group", lambda *_, **named: given.update(named))
    monkeypatch.setattr(dist, "destroy_process_group", lambda: None)
    monkeypatch.setattr(world, "ProcessGroup", lambda: None)
    with joined_world(DistributedConfig(device=kind, backend=backend, threads_per_rank=1)):
        assert given["device_id"] == told


@pytest.mark.parametrize(
    ("detail", "said"),
    [
        ("Error while creating shared memory segment /dev/shm/nccl-x", "docker run --shm-size"),
        ("Duplicate GPU detected : rank 1 and rank 0 both on CUDA device 1b000", "start one rank a GPU"),
    ],
)
def test_what_nccl_cannot_do_at_the_start_keeps_its_own_words(alone, monkeypatch, detail, said):
    def fail(*_, **named):
        raise dist.DistBackendError(f"NCCL error\nLast error:\n{detail}")

    monkeypatch.setattr(dist, "init_process_group", fail)
    with pytest.raises(dist.DistBackendError) as caught, joined_world(DistributedConfig(device="cpu")):
        pass
    verdict = judge(caught.value, rank=1, world_size=2)
    assert said in verdict.line
    assert verdict.exit_code == 2


def test_threads_are_the_cores_divided_by_the_ranks_of_the_host(alone, monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(7)))
    for local_world_size, threads in ((1, 7), (3, 2), (8, 1)):
        monkeypatch.setattr(world.RankInfo, "from_environment", lambda n=local_world_size: RankInfo(local_world_size=n))
        with joined_world(DistributedConfig(device="cpu")):
            assert torch.get_num_threads() == threads


def test_after_an_error_no_collective_is_called_not_even_to_leave(alone):
    with pytest.raises(ZeroDivisionError), joined_world(DistributedConfig(device="cpu")):
        1 / 0  # noqa: B018
    assert dist.is_initialized()


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"MASTER_PORT": "none"}, "rank 1 cannot join the other ranks at 127.0.0.1:none"),
        ({"MASTER_PORT": "99999"}, "rank 1 cannot join the other ranks at 127.0.0.1:99999"),
        ({"MASTER_PORT": "1"}, "rank 1 cannot join the other ranks at 127.0.0.1:1"),  # where nobody listens
    ],
)
def test_ranks_that_do_not_find_each_other_say_where_they_looked(changes, said):
    program = (
        "from dlrm.config.run import DistributedConfig as C\n"
        "from dlrm.distributed.world import joined_world\n"
        "from dlrm.errors import SetupError\n"
        "try:\n"
        "    with joined_world(C(device='cpu', timeout_s=1)): pass\n"
        "except SetupError as error: print(error)\n"
    )
    place = {"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "2"}
    environment = os.environ | LAUNCHED | place | changes
    done = subprocess.run(
        [sys.executable, "-c", program],
        env=environment,
        cwd=PROJECT,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    (line,) = done.stdout.splitlines()
    assert line.startswith(said), done.stderr


LEAVES = """
import os, sys
from dlrm.config.run import DistributedConfig
from dlrm.distributed.world import joined_world
with joined_world(DistributedConfig(device="cpu", threads_per_rank=1)) as world:
    world.collectives.barrier()
    print("worked", flush=True)
    if world.rank == 1:
        sys.stdin.read()
os._exit(0)  # as dlrm_main.py
"""


def test_rank_0_which_keeps_the_store_leaves_after_the_others():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    job = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "cwd": PROJECT, "text": True}
    with ExitStack() as stack:
        ranks = []
        for rank in ("0", "1"):
            environment = os.environ | job | {"RANK": rank, "LOCAL_RANK": rank}
            started = subprocess.Popen([sys.executable, "-c", LEAVES], env=environment, **pipes)
            ranks.append(stack.enter_context(started))
            stack.callback(started.kill)
        assert [rank.stdout.readline() for rank in ranks] == ["worked\n", "worked\n"]
        store = dist.PrefixStore("start 0", dist.TCPStore("127.0.0.1", port, is_master=False))
        while store.add("done", 0) == 0:  # fails if rank 0 leaves, and the store with it
            time.sleep(0.01)
        assert not store.check(["all done"])
        ranks[1].stdin.close()
        assert [rank.wait(timeout=100) for rank in ranks] == [0, 0]


def test_all_ranks_leave_together_and_rank_0_last():
    store, left = dist.HashStore(), {}

    def leave(rank):
        leave_together(store, RankInfo(rank, 3, rank, 3), timedelta(seconds=100))
        left[rank] = store.add("left", 0)

    threads = [threading.Thread(target=leave, args=(rank,)) for rank in range(3)]
    for thread in threads[:2]:
        thread.start()
    while store.add("done", 0) < 2:
        time.sleep(0.01)
    assert not left
    threads[2].start()
    for thread in threads:
        thread.join()
    assert left.keys() == {0, 1, 2}
    assert left[0] == 2
