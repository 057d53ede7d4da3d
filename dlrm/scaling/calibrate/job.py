"""``dlrm_main.py calibrate``: what the ranks that run it can do, all at once, as the cost model needs it.

Start it on every number of ranks of a host that matters, with the launcher and threads of a training: each adds what it
found to the file. Numbers of ranks between those are interpolated. Rates are measured where ranks have cores for
themselves.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import torch
from rich.table import Table

from dlrm.config.calibrate import CalibrateConfig
from dlrm.distributed.collectives import from_rank_0
from dlrm.distributed.world import RankInfo, World, joined_world
from dlrm.errors import ConfigError
from dlrm.run.console import Console, Display, Silent
from dlrm.run.environment import environment
from dlrm.run.log import leave_terminal
from dlrm.scaling.calibrate.steps import corrected, steps_in, told
from dlrm.scaling.cost import microbenchmarks
from dlrm.scaling.cost.calibration import CPU, Calibration, Entry
from dlrm.scaling.cost.rates import Rates

_CACHED, _STREAMED, _FRESH = 1 << 20, 1 << 24, 1 << 26  # bytes of a tensor: in a cache, beyond it, and newly mapped
_CACHE_BYTES = 8 << 20
# What a step takes in Python and in torchrec beside all that is measured; corrected by measured steps.
_STEP_S, _SHARED_STEP_S, _TABLE_S = 1e-3, 1e-3, 1e-5
_T = TypeVar("_T")


def run_calibration(config: CalibrateConfig) -> Calibration:
    """Measure, show and write it; the same on every rank.

    Raises:
        DlrmError: what the user can mend.
    """
    leave_terminal()  # the libraries, which are imported by now
    path = Path(config.output)
    if config.steps:
        if RankInfo.from_environment().world_size > 1:
            raise ConfigError.at("steps", "are looked at by one process; leave the launcher out")
        return _corrected(config, path)
    with joined_world(config.distributed) as world:
        display: Display = Console(progress=False) if world.is_leader else Silent()
        known = from_rank_0(world.collectives, lambda: _known(path, world))
        entry = measured(config, world)
        found = replace(known.with_entry(entry), environment=environment(world))
        if world.is_leader:
            display.show(table(entry))
            if entry.rates is not None and entry.rates.cached_bytes_per_s < entry.rates.stream_bytes_per_s:
                display.say(
                    "caution: a cache came out slower than memory: something else ran meanwhile, so run it again"
                )
            _write(found, path)
            numbers = ", ".join(str(one.ranks) for one in found.entries)
            display.say(f"{path} has calibrations of {numbers} rank(s); use it as --machine {path}")
    return found


def _corrected(config: CalibrateConfig, path: Path) -> Calibration:
    """The same file, corrected by measured steps."""
    known = Calibration.read(path, "output")
    steps = steps_in(Path(config.steps), known.name)
    found = corrected(known, steps)
    display = Console(progress=False)
    factors = ", ".join(f"{term} {factor:.2f}" for term, factor in found.factors.items())
    display.say(f"{path}: {told(found, steps)}")
    display.say(f"factors: {factors}")
    _write(found, path)
    return found


def _known(path: Path, world: World) -> Calibration:
    name = torch.cuda.get_device_name(world.device) if world.device.type == "cuda" else CPU
    known = Calibration.read(path, "output") if os.path.lexists(path) else Calibration(name, ())
    if known.name != name:
        raise ConfigError.at("output", f"{path} is of {known.name}, this is {name}: name another file")
    _write(known, path)  # what cannot be written is known before anything is measured
    return known


def _write(found: Calibration, path: Path) -> None:
    try:
        found.write(path)
    except OSError as error:
        raise ConfigError.at("output", f"{path} cannot be written ({error.strerror})") from None


def measured(config: CalibrateConfig, world: World) -> Entry:
    """What the ranks of this job can do; the same on every rank."""
    per_host = world.rank_info.local_world_size
    cores, threads = _cores_and_threads(world)
    rates = None
    if cores is None or per_host * threads <= cores:
        rates = _slowest(world.collectives.all_gather_object(_rates(config, world, cores)))
    links = microbenchmarks.collectives(world.device) if world.size > 1 else {}
    crowding = microbenchmarks.crowding(per_host * threads / cores) if cores is not None and world.size > 1 else 1.0
    return Entry(world.size, per_host, rates, links, max(world.collectives.all_gather_object(crowding)))


def _cores_and_threads(world: World) -> tuple[float | None, int]:
    """Cores of the host with the fewest, those of all its ranks together, and threads of the rank with the most.

    The same on every rank, since what is measured hangs on them, and the ranks measure together. None cores where each has
    a device of its own.
    """
    found = world.collectives.all_gather_object((os.sched_getaffinity(0), torch.get_num_threads()))
    per_host = world.rank_info.local_world_size
    hosts = [found[first : first + per_host] for first in range(0, len(found), per_host)]
    cores = min(len(set().union(*(own for own, _ in host))) for host in hosts)
    return float(cores) if world.device.type == "cpu" else None, max(threads for _, threads in found)


def _rates(config: CalibrateConfig, world: World, cores: float | None) -> Rates:
    """Of this rank, which begins each measurement together with the others."""
    device = world.device

    def together(work: Callable[[], _T]) -> _T:
        world.collectives.barrier()
        return work()

    flops, half_size, product_s = together(lambda: microbenchmarks.products(device, torch.float32))
    low_flops, _, _ = together(lambda: microbenchmarks.products(device, torch.bfloat16))
    cached, streamed, mapped = (
        together(lambda size=size: microbenchmarks.stream_bytes_per_s(size, device))  # type: ignore[misc]
        for size in (_CACHED, _STREAMED, _FRESH)
    )
    lookup_s, update_s = together(lambda: microbenchmarks.tables(device, config.rows, config.bags))
    on_cpu = device.type == "cpu"
    return Rates(
        name=CPU if on_cpu else torch.cuda.get_device_name(device),
        cores=cores,
        threads=torch.get_num_threads(),
        flops_per_s={"float32": flops, "bfloat16": low_flops},
        half_size=half_size,
        product_s=product_s,
        stream_bytes_per_s=streamed,
        cached_bytes_per_s=cached,
        cache_bytes=float(_CACHE_BYTES if on_cpu else torch.cuda.get_device_properties(device).L2_cache_size / 2),
        fresh_bytes_per_s=_fresh(streamed, mapped) if on_cpu else None,
        operation_s=together(lambda: microbenchmarks.operation_s(device)),
        lookup_s=lookup_s,
        update_s=update_s,
        ids_s=together(lambda: microbenchmarks.id_s(device)),
        cut_s=together(lambda: microbenchmarks.cut_by_rows(device, world.size)),
        copy_bytes_per_s=None if on_cpu else together(lambda: microbenchmarks.copy_bytes_per_s(device)),
        host_bytes_per_s=None if on_cpu else together(lambda: microbenchmarks.copy_bytes_per_s(device)),
        step_s=_STEP_S,
        table_s=_TABLE_S,
        shared_step_s=_SHARED_STEP_S,
        launch_s=0.0 if on_cpu else microbenchmarks.launch_s(device),
    )


def _fresh(streamed: float, mapped: float) -> float | None:
    """Bytes a second of memory that is new: what a tensor of new pages takes longer than one of old ones (one of three)."""
    longer_s = 3 / mapped - 3 / streamed
    return 1 / longer_s if longer_s > 0 else None


def _slowest(found: list[Rates]) -> Rates:
    """Of the rank with the slowest products: ranks wait for each other."""
    return min(found, key=lambda rates: rates.flops_per_s["float32"])


def table(entry: Entry) -> Table:
    """What was found, for a person."""
    shown = Table(title=f"{entry.ranks} rank(s), {entry.ranks_per_host} on a host")
    shown.add_column("what")
    shown.add_column("", justify="right")
    rates = entry.rates
    if rates is not None:
        for dtype, flops in rates.flops_per_s.items():
            shown.add_row(f"matrix products, {dtype}", f"{flops / 1e9:,.1f} GFLOP/s")
        shown.add_row("tensors in a cache", f"{rates.cached_bytes_per_s / 1e9:,.1f} GB/s")
        shown.add_row("tensors beyond", f"{rates.stream_bytes_per_s / 1e9:,.1f} GB/s")
        shown.add_row("an operator at least", f"{1e6 * rates.operation_s:,.2f} us")
        for name, (_, a_bag, an_id, a_byte) in (("lookup", rates.lookup_s), ("update", rates.update_s)):
            rows = f", {1e-9 / a_byte:,.1f} GB/s" if a_byte else ""
            told = f"{1e9 * a_bag:,.1f} ns a bag, {1e9 * an_id:,.1f} ns an id{rows}"
            shown.add_row(name, told)
    else:
        shown.add_row("rates", "not measured: the ranks share cores")
        shown.add_row("crowding", f"{entry.crowding:.2f}")
    for name, link in entry.links.items():
        shown.add_row(name, f"{1e6 * link.latency_s:,.0f} us, {link.bytes_per_s / 1e9:,.2f} GB/s")
    return shown
