"""Rates and links of devices that are not there, from the catalogues; what no data sheet says is set here, with its reason.

Peak rates are never reached. The shares that are, and what a kernel takes however little it does, are typical of kernels on
these devices. They are guesses until measured steps correct them (:mod:`dlrm.scaling.cost.fit`), which is why predictions
from here have a wide band.
"""

from __future__ import annotations

from dlrm.config import Config
from dlrm.distributed.world import World
from dlrm.errors import ConfigError
from dlrm.format import did_you_mean
from dlrm.hardware.catalogue import known_device, networks
from dlrm.hardware.entries import Device, Network
from dlrm.scaling.cost.rates import Link, Links, Machine, Rates
from dlrm.sharding.hardware import hardware_of

_GIB = 1 << 30
_SPREAD = 0.4  # by the catalogue alone, MLPerf's points are up to 1.7 times as fast (docs/plan.md)
_OF_A_HOST = 8  # devices that a host's own links tie together; more are a rack's

_OF_PEAK_FLOPS, _HALF_SIZE = 0.7, 64  # cuBLAS at shapes of thousands; tiles of 128 x 128 half empty at 64
_OF_STREAM, _OF_ROWS = 0.85, 0.6  # of the memory's bandwidth: one after the other; rows of 512 bytes from anywhere
_CACHE_TIMES = 2.0  # how many times as fast the L2 cache is, and how much of it a step's tensors find free
_CACHE_SHARE = 0.5
_KERNEL_S, _LAUNCH_S = 2.5e-6, 5e-6  # the shortest kernel with the gap behind it; PyTorch's host work for one
_SORTED_BYTES = 200  # moved for an id: sorting pairs by radix before an update
_PERMUTED_BYTES = 80  # and permuting for the exchange
_COPY_SHARE = 0.8
_STEP_S = 1e-4
_PEER_S = {"nvlink": 2e-7, "infiniband": 1e-6, "ethernet": 1.5e-6, "efa": 2e-6}  # a send and a receive in NCCL's proxy


def catalogued_machine(config: Config, world: World, network: str = "") -> Machine:
    """Of the devices of a world that is described, or of those that are there.

    Args:
        config: its options of ``sharding`` go before the catalogue; its precision decides which products are computed.
        world: the ranks.
        network: between hosts; that of the device's usual server if empty.

    Raises:
        ConfigError: an unknown network, or a device without any on several hosts.
        PlanError: an unknown device.
    """
    hardware = hardware_of(config.sharding, world)
    device = known_device(hardware.name or "")
    if device is None:
        message = "is needed for CPUs and for devices that the catalogue does not have: run calibrate there"
        raise ConfigError.at("machine", message)
    told = hardware.bandwidths
    between = _network(device, network, world)
    memory = told.device * _GIB
    inside = networks()[device.link]
    inter = told.inter_host * _GIB if config.sharding.inter_host_gib_s or not network else between.device_gb_s * 1e9
    return Machine(
        rates=_rates(device, memory, tf32=config.precision.tf32),
        links=Links(_links(inside, _inside(device, told.intra_host * _GIB, world)), _links(between, inter)),
        spread=_SPREAD,
        source=f"catalogue: {hardware.name}, {inside.title}, {between.title}",
        domain=device.link_devices if device.link_devices > _OF_A_HOST else 1,
    )


def _inside(device: Device, link: float, world: World) -> float:
    """Bytes a second to the other devices of a host: where bridges tie fewer of them together, by way of the host."""
    bridged = device.link_devices < min(_OF_A_HOST, world.rank_info.local_world_size)
    return min(link, device.host_gb_s * 1e9) if bridged else link


def _network(device: Device, asked: str, world: World) -> Network:
    known = networks()
    if asked and asked not in known:
        hint = did_you_mean(asked, known) or f"known are {', '.join(known)}"
        raise ConfigError.at("network", f"{asked!r} is not in the catalogue; {hint}")
    name = asked or device.network
    if name is not None:
        return known[name]
    if world.size > world.rank_info.local_world_size:
        raise ConfigError.at(
            "network", f"is needed: {' '.join(device.words)} comes without one; say one of {', '.join(known)}"
        )
    return known[device.link]


def _rates(device: Device, memory: float, *, tf32: bool) -> Rates:
    flops = {
        "float32": (device.tf32_tflops if tf32 else device.fp32_tflops) * 1e12 * _OF_PEAK_FLOPS,
        "bfloat16": device.bf16_tflops * 1e12 * _OF_PEAK_FLOPS,
    }
    a_byte = 1 / (memory * _OF_ROWS)
    return Rates(
        name=" ".join(device.words),
        cores=None,
        threads=1,
        flops_per_s=flops,
        half_size=_HALF_SIZE,
        product_s=_KERNEL_S,
        stream_bytes_per_s=memory * _OF_STREAM,
        cached_bytes_per_s=memory * _CACHE_TIMES,
        cache_bytes=device.l2_mb * 1e6 * _CACHE_SHARE,
        fresh_bytes_per_s=None,
        operation_s=_KERNEL_S,
        lookup_s=(0.0, 0.0, 0.0, a_byte),
        update_s=(0.0, 0.0, _SORTED_BYTES / memory, 2 * a_byte),  # rows and their state are read and written
        ids_s=_PERMUTED_BYTES / memory,
        cut_s=(_PERMUTED_BYTES / memory, _PERMUTED_BYTES / memory),
        copy_bytes_per_s=device.host_gb_s * 1e9 * _COPY_SHARE,
        host_bytes_per_s=device.host_gb_s * 1e9 * _OF_ROWS,
        step_s=_STEP_S,
        table_s=0.0,
        shared_step_s=0.0,
        launch_s=_LAUNCH_S,
    )


def _links(network: Network, bytes_per_s: float) -> dict[str, Link]:
    summed = (network.all_reduce_us or network.latency_us) * 1e-6
    sent = (network.all_to_all_us or network.all_reduce_us or network.latency_us) * 1e-6
    large, reduced = bytes_per_s * network.efficiency, bytes_per_s * network.all_reduce_efficiency
    peer_s = _PEER_S[network.kind]
    return {
        "all_to_all": Link(sent, large, peer_s),
        "reduce_scatter": Link(summed, large),
        "all_gather": Link(summed, large),
        "all_reduce": Link(summed, reduced),
    }
