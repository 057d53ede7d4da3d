import logging

import pytest

from dlrm.config.sharding import ShardingConfig
from dlrm.hardware.catalogue import known_device
from dlrm.sharding.hardware import Hardware, bandwidths, hardware_of, topology
from tests.unit.sharding.plans import world_of

GB_S = 10**9 / 1024**3  # GiB/s


@pytest.mark.parametrize(
    ("name", "memory_gb_s"),
    [  # as torch.cuda.get_device_name has them
        ("NVIDIA A100-SXM4-40GB", 1555),
        ("NVIDIA A100-SXM4-80GB", 2039),
        ("NVIDIA A100 80GB PCIe", 1935),
        ("NVIDIA A100-PCIE-40GB", 1555),
        ("NVIDIA H100 80GB HBM3", 3350),
        ("NVIDIA H100 PCIe", 2000),
        ("NVIDIA H100 NVL", 3900),
        ("NVIDIA GH200 480GB", 4000),
        ("NVIDIA H200", 4800),
        ("NVIDIA H200 NVL", 4800),
        ("NVIDIA B200", 8000),
        ("NVIDIA GB200", 8000),
        ("NVIDIA B300 SXM6 AC", 8000),
        ("NVIDIA GB300", 8000),
    ],
)
def test_the_name_of_a_device_finds_its_figures(name, memory_gb_s):
    assert known_device(name).memory_gb_s == memory_gb_s
    assert bandwidths(ShardingConfig(), name).device == pytest.approx(memory_gb_s * GB_S)


@pytest.mark.parametrize("name", ["Tesla T4", "NVIDIA A100-SXM4-40GB MIG 1g.5gb", "NVIDIA GeForce RTX 4090", ""])
def test_devices_that_are_not_in_the_catalogue_get_torchrec_s_figures(name):
    assert known_device(name) is None
    unknown = bandwidths(ShardingConfig(), name)
    assert (unknown.device, unknown.host_to_device) == (pytest.approx(897), pytest.approx(32))
    assert unknown == bandwidths(ShardingConfig(), None)
    assert "not in the catalogue" in str(Hardware(name, unknown, 1, 1))


def test_options_go_before_the_catalogue():
    names = ("device", "host", "host_to_device", "intra_host", "inter_host")
    options = {f"{name}_gib_s": number for number, name in enumerate(names, start=1)}
    told = bandwidths(ShardingConfig(**options), "NVIDIA H200")
    assert (told.device, told.host, told.host_to_device, told.intra_host, told.inter_host) == (1, 2, 3, 4, 5)


def test_the_planner_gets_every_figure_and_no_warning(caplog):
    config = ShardingConfig(device_memory_gib=2, intra_host_gib_s=100, inter_host_gib_s=5, host_gib_s=40)
    world = world_of(4, ranks_per_host=2)
    hardware = hardware_of(config, world)
    assert (hardware.device_bytes, hardware.host_bytes) == (0, 2 * 1024**3)
    with caplog.at_level(logging.WARNING):
        told = topology(hardware, world, device_bytes=0, host_bytes=1000)
    assert not caplog.records
    assert (told.world_size, told.local_world_size, told.compute_device) == (4, 2, "cpu")
    assert {(device.storage.hbm, device.storage.ddr) for device in told.devices} == {(0, 1000)}
    per_ms = 1024**3 / 1000
    assert (told.intra_host_bw, told.inter_host_bw, told.ddr_mem_bw) == (100 * per_ms, 5 * per_ms, 40 * per_ms)


def test_a_gpu_s_bandwidths_reach_the_planner(monkeypatch):
    monkeypatch.setattr("torch.cuda.get_device_name", lambda device: "NVIDIA H200")
    monkeypatch.setattr("torch.cuda.get_device_properties", lambda device: type("P", (), {"total_memory": 140 * 10**9}))
    world = world_of(2, device="cuda")
    hardware = hardware_of(ShardingConfig(), world)
    told = topology(hardware, world, device_bytes=hardware.device_bytes, host_bytes=1)
    assert {device.storage.hbm for device in told.devices} == {140 * 10**9}
    assert told.hbm_mem_bw == pytest.approx(4800 * 10**9 / 1000)  # bytes a millisecond
    assert told.hbm_to_ddr_mem_bw == pytest.approx(64 * 10**9 / 1000)
    assert told.intra_host_bw == pytest.approx(450 * 10**9 / 1000)
    assert told.inter_host_bw == pytest.approx(50 * 10**9 / 1000)


def test_the_ranks_of_a_host_share_its_memory(monkeypatch):
    monkeypatch.setattr("psutil.virtual_memory", lambda: type("Memory", (), {"total": 8 * 1024**3}))
    assert hardware_of(ShardingConfig(), world_of(4, ranks_per_host=2)).host_bytes == 4 * 1024**3
