"""The cost model against MLPerf Training's published DLRM-DCNv2 results: two points correct it, the others are predicted.

python -m benchmarks.mlperf_points [--out benchmarks/results/mlperf_points.json] [--report FOLDER]

The submissions train with HugeCTR, whose plans torchrec cannot make: tables are cut by rows over some devices, or over the
hosts, whose devices share each part. So the work of a step is described here from their plan; the dense part is this
project's own. What HugeCTR computes otherwise (fused kernels, CUDA graphs) is what the two points correct.
"""

from __future__ import annotations

import argparse
import functools
import heapq
import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from dlrm.config import load_options
from dlrm.config.plan import PlanConfig
from dlrm.data.build import build_dataset
from dlrm.hardware.catalogue import known_device, reference_points
from dlrm.hardware.entries import ReferencePoint
from dlrm.models.build import build_model
from dlrm.models.task import TrainTask
from dlrm.scaling import table
from dlrm.scaling.cost.catalogued import catalogued_machine
from dlrm.scaling.cost.describe import batch_bytes, dense_operations, dense_shapes
from dlrm.scaling.cost.fit import refit
from dlrm.scaling.cost.rates import Machine
from dlrm.scaling.cost.step import StepCost, step_cost
from dlrm.scaling.cost.updates import dense_update
from dlrm.scaling.cost.workload import Lookup, Transfer, Workload, all_reduced
from dlrm.scaling.operations import Operation
from dlrm.scaling.plan.job import cluster_of
from dlrm.scaling.report.about import about_now
from dlrm.scaling.report.write import write_report
from dlrm.scaling.stage_names import ALL_REDUCE, INPUT_DIST, OUTPUT_DIST, backward_of

PROJECT = Path(__file__).resolve().parents[1]
RESULTS = PROJECT / "benchmarks" / "results" / "mlperf_points.json"
CORRECTED_BY = ("v4.1_nvidia_8xh100", "v3.0_dell_8xa100_80gb")
FIRST = (  # NVIDIA's results of each kind of device and size, and who else is the only one to have some
    "v4.1_nvidia_64xh100", "v4.1_nvidia_128xh100", "v5.0_hpe_8xh200", "v5.0_hpe_16xh200", "v5.0_hpe_32xh200",
    "v5.0_nvidia_8xb200", "v4.0_junipernetworks_64xa100_80gb", "v5.0_nvidia_8xgb200", "v5.0_nvidia_64xgb200",
    "v6.0_nvidia_8xgb300", "v6.0_nvidia_64xgb300",
)  # fmt: skip
MOST_OFF = 0.2
_DIM, _ROUNDS = 128, 20
_DRAWN = 0.05  # two points and as many factors as terms: drawn to 1 only as far as the points leave open
_HALF = 2


@dataclass(frozen=True)
class Part:
    """A range of a table's rows: the ids of a sample that fall into it, and its rows."""

    table: int
    ids: float
    rows: float


def shared_out(parts: list[Part], buckets: int, a_table: float) -> list[list[Part]]:
    """Parts of tables over devices or hosts, the costliest first, each to the bucket with the least so far.

    Of the plans with more and more cuts, each of the hottest part in two, the one whose fullest bucket has the least.

    Args:
        parts: whole tables.
        buckets: devices or hosts.
        a_table: what a part costs beside its ids, in ids.
    """
    best: tuple[float, list[list[Part]]] = (math.inf, [])
    for _ in range(_ROUNDS):
        plan: list[list[Part]] = [[] for _ in range(buckets)]
        heap = [(0.0, bucket) for bucket in range(buckets)]
        for part in sorted(parts, key=lambda part: -part.ids):
            cost, bucket = heapq.heappop(heap)
            plan[bucket].append(part)
            heapq.heappush(heap, (cost + part.ids + a_table, bucket))
        most = max(cost for cost, _ in heap)
        if most < best[0]:
            best = most, plan
        hottest = max(parts, key=lambda part: part.ids)
        parts = [part for part in parts if part is not hottest]
        parts += [Part(hottest.table, hottest.ids / 2, hottest.rows / 2) for _ in range(2)]
    return best[1]


@functools.cache
def model_of() -> TrainTask:
    """DLRM-DCNv2 with its loss, whose tables take no memory."""
    config = configured()
    model = build_model(config.model, build_dataset(config.data).schema, seed=0)
    return TrainTask(model)


@functools.cache
def operators_of(samples: int) -> tuple[Operation, ...]:
    """Of the dense part, for so many samples of a device."""
    config = configured()
    return tuple(dense_operations(config, build_dataset(config.data).schema, model_of(), samples, torch.device("cuda")))


def configured(*options: str) -> PlanConfig:
    """This project's configuration of the benchmark, as the submissions train it."""
    path = str(PROJECT / "configs" / "mlperf_dlrm_dcnv2.yaml")
    return load_options(PlanConfig, path, ["precision.dense=bf16", *options])


def workload(point: ReferencePoint) -> tuple[Workload, Machine]:
    """What the submission's ranks do in a step, and the devices they do it on."""
    assert point.global_batch_size is not None
    config = configured(
        f"train.global_batch_size={point.global_batch_size}",
        f"cluster={point.hosts}x{point.gpus_per_host}",
        f"device={point.device}",
    )
    machine = catalogued_machine(config, cluster_of(config), point.network or "")
    schema = build_dataset(config.data).schema
    features, samples = schema.sparse, point.global_batch_size / point.gpus
    ids = sum(feature.hotness for feature in features)
    replicated = [i for i, feature in enumerate(features) if feature.rows <= point.replicated_rows]
    parts = [Part(i, feature.hotness, feature.rows) for i, feature in enumerate(features) if i not in replicated]
    lookups, transfers = _of_tables(point, parts, known_device(point.device).memory_gb_s)  # type: ignore[union-attr]
    shapes = dense_shapes(model_of())
    summed = sum(map(math.prod, shapes)) + sum(features[i].rows for i in replicated) * _DIM
    own = tuple(
        Lookup(f"cat_{i}", "data_parallel", "dense", 0.0, features[i].rows, _DIM, samples, samples * features[i].hotness,
               min(features[i].rows, samples * features[i].hotness), 0.0)
        for i in replicated
    )  # fmt: skip
    work = Workload(
        ranks=point.gpus,
        ranks_per_host=point.gpus_per_host,
        samples=samples,
        operations=operators_of(round(samples)),
        lookups=tuple((*of_rank, *own) for of_rank in lookups),
        transfers=(*transfers, *all_reduced(ALL_REDUCE, summed * _HALF, point.gpus, point.gpus_per_host)),
        updates=tuple(dense_update(config.optim.dense, shapes)),
        replicated=(),
        replicated_numbers=0,
        batch_bytes=samples * batch_bytes(schema, ids),
        batch_ids=samples * ids,
        cut_bags=0.0,
        cut_ids=0.0,
        tables=len(features),
        prefetches_ids=True,
    )
    return work, replace(machine, rates=replace(machine.rates, launch_s=0.0))  # CUDA graphs


def _of_tables(
    point: ReferencePoint, parts: list[Part], memory_gb_s: float
) -> tuple[list[tuple[Lookup, ...]], list[Transfer]]:
    samples, ranks = point.global_batch_size or 0, point.gpus
    per_host = point.gpus_per_host
    hier = point.sharding == "hier_auto"
    device = known_device(point.device)
    assert device is not None
    link = device.network_gb_s if hier else device.link_gb_s
    assert link is not None
    buckets = shared_out(parts, point.hosts if hier else ranks, memory_gb_s / link / 4)
    lookups, counts = [], np.zeros(ranks)
    for rank in range(ranks):
        mine = buckets[rank // per_host] if hier else buckets[rank]
        among = per_host if hier else 1
        lookups.append(tuple(_lookup(part, samples, among) for part in mine))
        counts[rank] = sum(min(1.0, part.ids) for part in mine)

    def transfer(
        stage: str, collective: str, group: str, sent: np.ndarray, taken: np.ndarray, calls: int = 1
    ) -> Transfer:
        return Transfer(stage, collective, group, sent, taken, ranks, per_host, calls)

    ids = np.array([sum(lookup.ids for lookup in of_rank) for of_rank in lookups]) * 4 * (ranks - 1) / ranks
    found = [transfer(INPUT_DIST, "all_to_all", "world", ids, ids, 2)]
    there, back = OUTPUT_DIST, backward_of(OUTPUT_DIST)
    row = _DIM * _HALF
    if not hier:
        sent = counts * samples * row * (ranks - 1) / ranks
        taken = np.full(ranks, counts.sum() * samples / ranks * row * (ranks - 1) / ranks)
        found += [
            transfer(there, "all_to_all", "world", sent, taken),
            transfer(back, "all_to_all", "world", taken, sent),
        ]
        return lookups, found
    inside = counts * samples * row * (per_host - 1) / per_host
    across = counts * samples / per_host * row * (point.hosts - 1) / point.hosts
    mean = np.full(ranks, across.mean())
    found += [transfer(there, "reduce_scatter", "host", inside, inside)]
    found += [transfer(there, "all_to_all", "across", across, mean)]
    found += [transfer(back, "all_to_all", "across", mean, across)]
    found += [transfer(back, "all_gather", "host", inside, inside)]
    return lookups, found


def _lookup(part: Part, samples: int, among: int) -> Lookup:
    """Of a device, which has the part to itself or shares it with the others of its host."""
    ids = samples * part.ids / among
    rows = part.rows / among
    distinct = -rows * math.expm1(ids * math.log1p(-1 / max(rows, 2.0)))
    bags = samples * min(1.0, part.ids)
    return Lookup(f"cat_{part.table}", "row_wise", "fused", 0.0, int(rows), _DIM, bags, ids, distinct, 4.0 * _DIM)


def corrected(described: dict[str, tuple[Workload, Machine]]) -> dict[str, float]:
    """The factors with which the model gives the two points' steps."""
    known = {point.name: point for point in reference_points()}

    def terms(factors: Mapping[str, float]) -> list[Mapping[str, float]]:
        found = (described[name] for name in CORRECTED_BY)
        return [step_cost(work, replace(machine, factors=factors)).terms_s for work, machine in found]

    measured_s = [(known[name].step_ms or 0.0) / 1e3 for name in CORRECTED_BY]
    return refit(terms, measured_s, rounds=10, drawn=_DRAWN)


def predicted() -> tuple[dict[str, tuple[Workload, Machine]], dict[str, float]]:
    """All points, and the factors that the two give."""
    known = {point.name: point for point in reference_points()}
    named = (*CORRECTED_BY, *FIRST)
    described = {name: workload(known[name]) for name in (*named, *(name for name in known if name not in named))}
    return described, corrected(described)


def speed_of(point: ReferencePoint, cost: StepCost) -> float:
    """Samples a second of a GPU."""
    return (point.global_batch_size or 0) / point.gpus / cost.step_s


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--report", type=Path, help="folder for a page of it")
    asked = parser.parse_args()
    known = {point.name: point for point in reference_points()}
    described, factors = predicted()
    print("factors:", ", ".join(f"{term} {factor:.2f}" for term, factor in factors.items() if abs(factor - 1) > 0.02))
    print(f"{'':36} {'M samples/s a GPU':>18} {'predicted':>10} {'off':>6} {'uncorrected':>12}")
    found = []
    for name, (work, machine) in described.items():
        point = known[name]
        cost = step_cost(work, replace(machine, factors=factors))
        speed, before = speed_of(point, cost), speed_of(point, step_cost(work, replace(machine, factors={})))
        off = speed / point.samples_s_per_gpu - 1
        found.append(
            {
                "point": name,
                "corrects": name in CORRECTED_BY,
                "gpus": point.gpus,
                "samples_s_per_gpu": point.samples_s_per_gpu,
                "predicted": speed,
                "uncorrected": before,
                "off": off,
                "stages_ms": {stage: seconds * 1e3 for stage, seconds in cost.stages_s.items()},
            }
        )
        verdict = "corrects" if name in CORRECTED_BY else "" if abs(off) <= MOST_OFF else "MISS"
        published, these, those = (value / 1e6 for value in (point.samples_s_per_gpu, speed, before))
        print(f"{name:36} {published:18.2f} {these:10.2f} {off:+6.0%} {those:12.2f} {verdict}")
    asked.out.write_text(json.dumps({"factors": factors, "points": found}, indent=1) + "\n")
    if asked.report:
        rows = [row for entry in found for row in _rows(known[entry["point"]], entry)]
        about = about_now("MLPerf Training's published DLRM-DCNv2 results, and what the cost model says of them")
        print(write_report(rows, asked.report, about=about))


def _rows(point: ReferencePoint, found: dict[str, Any]) -> Iterator[table.Row]:
    """What was published and what is predicted of a point."""

    def row(source: str, quantity: str, part: str, value: float) -> table.Row:
        name = f"{point.gpus} x {point.device}{' (corrects)' if found['corrects'] else ''}"
        size = point.hosts, point.gpus, point.global_batch_size or 0
        return table.Row("MLPerf DLRM-DCNv2", name, None, table.DONE, "", *size, source, quantity, part, None, value)

    yield row(table.PUBLISHED, table.SAMPLES_PER_S, "", point.samples_s)
    yield row(table.PREDICTED, table.SAMPLES_PER_S, "", found["predicted"] * point.gpus)
    yield row(table.PREDICTED, table.STEP, "", sum(found["stages_ms"].values()))
    for stage, value in found["stages_ms"].items():
        yield row(table.PREDICTED, table.STAGE, stage, value)


if __name__ == "__main__":
    main()
