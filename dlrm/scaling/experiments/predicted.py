"""What the cost model says of a point, beside what is measured: the one place where experiments ask it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

from dlrm.config.experiment import ScaleConfig
from dlrm.data.build import build_dataset
from dlrm.data.id_statistics.base import IdStatistics
from dlrm.data.source import Dataset
from dlrm.distributed.world import described_world
from dlrm.errors import DlrmError
from dlrm.scaling.cost.calibration import Calibration
from dlrm.scaling.cost.catalogued import catalogued_machine
from dlrm.scaling.cost.describe import measured_ids
from dlrm.scaling.cost.workload import bytes_by_collective
from dlrm.scaling.experiments.matrix import Point
from dlrm.scaling.experiments.rows import Rows
from dlrm.scaling.plan.forecast import Forecast, forecast
from dlrm.scaling.table import (
    DONE,
    EXCHANGED,
    LOAD,
    MEMORY,
    PREDICTED,
    SAMPLES_PER_S,
    STAGE,
    STEP,
    Row,
)

_Figure = tuple[str, str, int | None, float, bool]


class Predictor:
    """Predicts points on the hardware that the command names.

    Args:
        config: of the command.

    Raises:
        ConfigError: its calibration cannot be read.
    """

    def __init__(self, config: ScaleConfig) -> None:
        self._calibration = Calibration.read(Path(config.machine)) if config.machine else None
        self._device, self._network = config.device, config.network
        self._data: dict[str, tuple[Dataset, dict[str, IdStatistics]]] = {}

    def rows(self, experiment: str, point: Point, say: Callable[[str], None]) -> list[Row]:
        """Of a point; none where it cannot be.

        Args:
            experiment: its name.
            point: of it.
            say: is told why it cannot be.
        """
        try:
            found = self._forecast(point)
        except DlrmError as error:
            say(f"{point.name} is not predicted: {str(error).splitlines()[0]}")
            return []
        rows = Rows(experiment, point)
        told = []
        for quantity, part, rank, value, bounded in _figures(found):
            low, high = found.band(value) if bounded else (None, None)
            told.append(
                rows.row(
                    None,
                    DONE,
                    source=PREDICTED,
                    quantity=quantity,
                    part=part,
                    rank=rank,
                    value=value,
                    low=low,
                    high=high,
                )
            )
        return told

    def _forecast(self, point: Point) -> Forecast:
        config = point.config
        key = config.data.model_dump_json()
        if key not in self._data:
            dataset = build_dataset(config.data)
            self._data[key] = dataset, measured_ids(dataset)
        dataset, ids = self._data[key]
        world = described_world(point.ranks, point.ranks_per_host, self._device)
        if self._calibration is not None:
            machine = self._calibration.machine(point.ranks, point.ranks_per_host)
        else:
            machine = catalogued_machine(config, world, self._network)
        return forecast(config, dataset, world, machine, ids)


def _figures(found: Forecast) -> Iterator[_Figure]:
    """(quantity, part, rank, value, whether it has a band) of all that is predicted."""
    assert found.cost is not None
    assert found.workload is not None
    yield SAMPLES_PER_S, "", None, found.samples_per_s, True
    yield STEP, "", None, 1e3 * found.step_s, True
    for stage, seconds in found.cost.stages_s.items():
        yield STAGE, stage, None, 1e3 * seconds, False
    for rank, seconds in enumerate(found.cost.by_rank_s):
        yield LOAD, "", rank, 1e3 * seconds, False
    for collective, size in bytes_by_collective(found.workload).items():
        yield EXCHANGED, collective, None, size, False
    for rank, account in enumerate(found.accounts):
        yield MEMORY, "host", rank, float(account.total.host), False
        if account.total.device:
            yield MEMORY, "device", rank, float(account.total.device), False
