import threading

import pytest
import torch
import torch.distributed as dist

from dlrm.distributed import devices
from dlrm.distributed.devices import Choice, HostDevices, choose, cuda_fault, probe_host, share
from dlrm.distributed.versions import Installed
from dlrm.errors import SetupError

GPU_WHEELS = Installed("2.13.0", {"fbgemm-gpu": "1.8.0"}, "1.8.0")
TOO_OLD = (
    "The NVIDIA driver on your system is too old (found version 12020). Please update your GPU driver by downloading "
    "and installing a new version from the URL: http://www.nvidia.com/Download/index.aspx"
)


def host(count, ranks, name="n1", fault=""):
    return HostDevices(name, ranks, count, fault)


@pytest.fixture
def card(monkeypatch):
    """A machine with two cards on which CUDA starts and kernels run, until a test says otherwise."""
    monkeypatch.setattr(Installed, "here", lambda: GPU_WHEELS)
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "init", lambda: None)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda index: "Tesla T4")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda index: (7, 5))
    monkeypatch.setattr(devices, "_run_kernel", lambda device: None)
    return monkeypatch


def failing(message):
    def fail(*_):
        raise RuntimeError(message)

    return fail


# The decision


@pytest.mark.parametrize(
    ("asked", "hosts", "kind"),
    [
        ("auto", [host(0, 1)], "cpu"),
        ("auto", [host(1, 1)], "cuda"),
        ("auto", [host(8, 4)], "cuda"),
        ("auto", [host(8, 8, "n1"), host(8, 8, "n2")], "cuda"),
        ("cpu", [], "cpu"),
        ("cuda", [host(4, 4)], "cuda"),
    ],
)
def test_cuda_is_taken_where_every_rank_of_every_host_has_a_device_and_nothing_is_said(asked, hosts, kind):
    assert choose(asked, hosts) == Choice(kind)


@pytest.mark.parametrize(
    ("hosts", "said"),
    [
        ([host(1, 2)], "training on CPU: host n1 has 1 CUDA device(s) for 2 rank(s); start 1 there to use CUDA"),
        ([host(4, 8)], "training on CPU: host n1 has 4 CUDA device(s) for 8 rank(s); start 4 there to use CUDA"),
        (
            [host(8, 8), host(0, 8, "n2")],
            "training on CPU: host n2 has 0 CUDA device(s) for 8 rank(s); leave it out to use CUDA",
        ),
    ],
)
def test_devices_that_stay_idle_are_said(hosts, said):
    assert choose("auto", hosts) == Choice("cpu", said)


@pytest.mark.parametrize(("count", "ranks"), [(0, 1), (1, 2), (3, 4)])
def test_too_few_devices_for_cuda_are_one_line_with_both_numbers(count, ranks):
    said = rf"host n2 has {count} CUDA device\(s\) for {ranks} rank\(s\); start fewer ranks or use --d"
    with pytest.raises(SetupError, match=said):
        choose("cuda", [host(4, 4), host(count, ranks, "n2")])


@pytest.mark.parametrize("asked", ["auto", "cuda"])
def test_a_fault_of_one_host_is_an_error_that_names_it(asked):
    with pytest.raises(SetupError, match=r"^host n2: CUDA does not start; x$"):
        choose(asked, [host(8, 8), host(8, 8, "n2", "CUDA does not start; x")])


def test_all_ranks_know_what_each_has_found():
    store = dist.HashStore()
    found = [host(8, 2, "n1"), host(8, 2, "n1"), host(0, 2, "n2"), host(0, 2, "n2")]
    seen = [None] * 4

    def look(rank):
        seen[rank] = share(found[rank], rank=rank, world_size=4, store=store)

    threads = [threading.Thread(target=look, args=(rank,)) for rank in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert seen == [[host(8, 2, "n1"), host(0, 2, "n2")]] * 4


# What a host has


def test_devices_that_train_have_no_fault(card):
    found = probe_host("auto", local_rank=1, local_world_size=2)
    assert (found.devices, found.ranks, found.fault) == (2, 2, "")


def test_nothing_is_started_on_devices_that_will_not_be_used(card):
    card.setattr(torch.cuda, "init", failing("started"))
    assert probe_host("auto", local_rank=0, local_world_size=3).fault == ""
    assert probe_host("cpu", local_rank=0, local_world_size=1) == HostDevices(found_name(), 1, 0)


def found_name():
    return devices.socket.gethostname()


def test_an_old_driver_under_devices_that_nvml_counts_is_one_line(card):
    card.setattr(torch.cuda, "init", failing(TOO_OLD))
    assert probe_host("auto", local_rank=0, local_world_size=2).fault == (
        "CUDA does not start: The NVIDIA driver on your system is too old (found version 12020) (torch is built for CUDA "
        "13.0); update the NVIDIA driver or use --distributed.device cpu"
    )


@pytest.mark.parametrize(
    "error",
    [
        "CUDA error: no kernel image is available for execution on the device\nCUDA kernel errors might be ...",
        "CUDA error: invalid device function",
    ],
)
def test_a_device_that_the_wheels_hold_no_code_for_is_named_with_its_capability(card, error):
    card.setattr(devices, "_run_kernel", failing(error))
    fault = cuda_fault(1)
    assert fault.startswith(
        "CUDA device 1 (Tesla T4, compute capability 7.5) is one that the installed torch or fbgemm-gpu"
    )
    assert "8.x, 9.x and 10.x" in fault
    assert fault.endswith("use --distributed.device cpu")


def test_another_error_of_the_device_is_told_as_it_is(card):
    card.setattr(devices, "_run_kernel", failing("CUDA error: uncorrectable ECC error encountered\nmore"))
    assert "does not run a kernel: CUDA error: uncorrectable ECC error encountered; see" in cuda_fault(0)


def test_fbgemm_for_cpu_under_a_torch_for_cuda_is_one_line_with_the_hint(card):
    card.setattr(Installed, "here", lambda: Installed("2.13.0", {"fbgemm-gpu-cpu": "1.8.0"}, "1.8.0"))
    assert "run `make install ACCELERATOR=cuda` or use --distributed.device cpu" in cuda_fault(0)


def test_cuda_asked_of_a_torch_for_cpu_is_one_line_with_the_hint(monkeypatch):
    monkeypatch.setattr(torch.version, "cuda", None)
    fault = probe_host("cuda", local_rank=0, local_world_size=1).fault
    assert "is built for CPU; run `make install ACCELERATOR=cuda` or use --distributed.device cpu" in fault
    assert probe_host("auto", local_rank=0, local_world_size=1).fault == ""
