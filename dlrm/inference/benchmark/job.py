"""``bench-inference``: what answers cost on this machine."""

from __future__ import annotations

import gc
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
import torch

from dlrm.checkpoint.manifest import MANIFEST_NAME
from dlrm.config.bench_inference import BenchInferenceConfig
from dlrm.errors import ConfigError, ExportError
from dlrm.format import counted
from dlrm.inference.benchmark.comparison import Comparison, compare
from dlrm.inference.benchmark.cpus import on_cpus
from dlrm.inference.benchmark.measure import Measured, measure
from dlrm.inference.benchmark.picture import draw
from dlrm.inference.benchmark.plain import Plain, trainers_model
from dlrm.inference.benchmark.points import Plan, Point, plan
from dlrm.inference.benchmark.requests import Requests, make_requests, make_rows
from dlrm.inference.benchmark.result import FILES, PICTURE, Result, write_files
from dlrm.inference.benchmark.rows import Row
from dlrm.inference.benchmark.serving import Serving
from dlrm.inference.benchmark.text import texts
from dlrm.inference.exported.predictor import Predictor, open_predictor
from dlrm.inference.serve.job import SWITCH_S
from dlrm.inference.serve.waiting import Limits
from dlrm.run.console import Console
from dlrm.run.secondary import secondary


def run_bench_inference(config: BenchInferenceConfig) -> Result:
    """Measure, show and write what was found; what was found so far where it is interrupted.

    Raises:
        ExportError, ConfigError: what the user can mend.
        KeyboardInterrupt: after what was measured is written.
    """
    console = Console(progress=False)
    planned = plan(config)
    result = Result(config, notices=[*planned.notices, *_notices(config)])
    bench = Bench(config, planned, result, console)
    folder = _folder(config)
    try:
        with on_cpus(planned.cpu_sets["all"]), _as_served():
            bench.run()
        result.complete = True
    except KeyboardInterrupt:
        result.notices.append("interrupted: this is what was measured so far")
        raise
    finally:
        result.notices += _disturbances(result.measured)
        if result.measured:
            for shown in texts(result):
                console.say(shown) if isinstance(shown, str) else console.show(shown)
            write_files(result, folder)
            with secondary(folder / PICTURE, console.say):
                draw(result, folder / PICTURE)
            console.say(f"files in {folder}/")
    return result


class Bench:
    """The exports in memory, and all runs.

    Args:
        config: of the benchmark.
        planned: what is measured.
        result: where it is written to, as it is found.
        console: for progress.

    Raises:
        ExportError: one of them is none, or cannot be used.
        ConfigError: the rows to ask with are none.
    """

    def __init__(self, config: BenchInferenceConfig, planned: Plan, result: Result, console: Console) -> None:
        self._config, self._planned, self._result, self._console = config, planned, result, console
        most = max(len(config.exports), *config.models)
        self._predictors = [
            open_predictor(config.exports[number % len(config.exports)], compiled=config.compiled)
            for number in range(most)
        ]
        self._rows: list[list[Row]] = [
            make_rows(predictor.preprocessing, data=config.data, skew=config.skew, seed=config.seed)
            for predictor in self._predictors[: len(config.exports)]
        ]
        self._requests: dict[tuple[int, int], Requests] = {}
        self._rng = np.random.default_rng([config.seed, 3])

    def run(self) -> None:
        """All points, and the comparison."""
        points = self._planned.points
        for number, point in enumerate(points, 1):
            with on_cpus(self._planned.cpu_sets[point.cpu_set]), self._serving(point) as serving:
                found = measure(point, serving, self._config, self._rng)
            self._result.measured.append(found)
            rate = f"{found.bounded_rate:,.0f} requests/s" if found.bounded else "no rate"
            self._console.say(f"{number}/{len(points)} {point.title}: {rate} within {self._config.bound_ms:g} ms")
        best = self._result.best_alone
        if self._config.rounds and best is None:
            self._result.notices.append("no plain way beside: no point of one model keeps the bound")
        elif self._config.rounds and best is not None:
            self._compare(best)

    def _compare(self, best: Measured) -> None:
        point = best.point
        try:
            model = trainers_model(self._predictors[0].folder)
        except ExportError as error:
            self._result.notices.append(f"no plain way beside: {error}")
            return
        requests = self._requests_of(0, point.request_rows)
        plain = Plain(model, self._predictors[0].schema, requests, given=point.given)

        def keep(seen: Comparison) -> None:
            self._result.comparison = seen
            self._console.say(f"comparison, round {len(seen.plain)}/{self._config.rounds}")

        with on_cpus(self._planned.cpu_sets[point.cpu_set]):
            cpus = len(self._planned.cpu_sets[point.cpu_set])
            compare(
                point,
                plain,
                lambda: self._serving(point),
                self._config,
                first=best.bounded_rate,
                highest=2 * best.closed.requests_per_s,
                threads=min(torch.get_num_threads(), cpus),
                rng=self._rng,
                found=keep,
            )

    def _serving(self, point: Point) -> Serving:
        # The n-th copy of an export among the members of a point is the n-th that was read.
        models: list[Predictor] = []
        for member in point.members:
            copies = self._predictors[member :: len(self._config.exports)]
            models.append(next(copy for copy in copies if copy not in models))
        config = self._config
        limits = Limits(point.batch_rows, config.max_wait_ms / 1e3, config.max_queue_rows)
        requests = [self._requests_of(member, point.request_rows) for member in point.members]
        timeout_s = config.timeout_ms / 1e3 or float("inf")
        return Serving(models, requests, given=point.given, limits=limits, threads=point.threads, timeout_s=timeout_s)

    def _requests_of(self, member: int, request_rows: int) -> Requests:
        key = member, request_rows
        if key not in self._requests:
            preprocessing = self._predictors[member].preprocessing
            self._requests[key] = make_requests(preprocessing, self._rows[member], request_rows, seed=self._config.seed)
        return self._requests[key]


def _notices(config: BenchInferenceConfig) -> list[str]:
    if config.seconds * config.tolerance * 1e3 >= config.bound_ms:
        return []
    return [
        f"runs of {config.seconds:g} s are short for a bound of {config.bound_ms:g} ms: what is too much by less than "
        f"{config.bound_ms / config.seconds / 10:.0f} % may pass for a rate within it"
    ]


def _disturbances(measured: Sequence[Measured]) -> list[str]:
    """What makes bounded rates doubtful, in lines."""
    lines = []
    behind = [one for one in measured if one.bounded and one.bounded.behind]
    if behind:
        lines.append(
            f"{counted(len(behind), 'point')} marked *: the generator could not keep up (more than half of the requests "
            "were handed over more than 1 ms after they were due, which their latencies contain); something else runs, or "
            "the threads leave it no CPU"
        )
    for one in measured:
        if one.bounded and (lost := one.bounded.shed + one.bounded.expired):
            lines.append(f"{one.point.title}: {counted(lost, 'request')} shed or expired")
    return lines


@contextmanager
def _as_served() -> Iterator[None]:
    """Python as the server sets it: a short switch interval, and no collection of what stays."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(SWITCH_S)
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()
        sys.setswitchinterval(before)


def _folder(config: BenchInferenceConfig) -> Path:
    """The folder for results, without those of an earlier benchmark."""
    folder = Path(config.output or f"{config.exports[0].rstrip('/')}.benchmark")
    try:
        if (folder / MANIFEST_NAME).exists():
            raise ConfigError.at("output", f"{folder} is the folder of an export: name another")
        folder.mkdir(parents=True, exist_ok=True)
        for name in FILES:
            with suppress(FileNotFoundError):
                (folder / name).unlink()
    except OSError as error:
        raise ConfigError.at("output", f"{folder} cannot be written ({error.strerror}): name another folder") from None
    return folder
