"""How many bytes ranks send each other in a step of a training, by formula from its plan (:mod:`dlrm.scaling.cost`)."""

from __future__ import annotations

from collections.abc import Callable

from dlrm.config import Config
from dlrm.errors import DlrmError
from dlrm.format import first_line


class Exchange:
    """Works it out once for each configuration.

    Args:
        ranks, ranks_per_host: that share the step.
        say: is told why something is not known.
    """

    def __init__(self, ranks: int, ranks_per_host: int, say: Callable[[str], None]) -> None:
        self._ranks, self._ranks_per_host, self._say = ranks, ranks_per_host, say
        self._known: dict[str, float | None] = {}

    def sent_bytes(self, name: str, config: Config) -> float | None:
        """That all ranks together send others in a step; None of a single rank, and where no plan is found.

        Args:
            name: of the arm, for the line that says why.
            config: of a training.
        """
        if self._ranks == 1:
            return None
        seedless = config.model_copy(
            update={"run": config.run.model_copy(update={"seed": 0, "dir": "", "name": "run"})}
        )
        key = seedless.model_dump_json()
        if key not in self._known:
            try:
                self._known[key] = _sent(config, self._ranks, self._ranks_per_host)
            except DlrmError as error:
                self._say(f"{name}: exchanged bytes are not known: {first_line(error)}")
                self._known[key] = None
        return self._known[key]


def _sent(config: Config, ranks: int, ranks_per_host: int) -> float:
    # Imports are here because torchrec takes seconds, and a study of single ranks does without.
    from dlrm.run.log import capture_logs, leave_terminal

    capture_logs()
    from dlrm.data.build import build_dataset
    from dlrm.distributed.world import described_world
    from dlrm.scaling.cost.describe import measured_ids, workload_of
    from dlrm.scaling.cost.workload import bytes_by_collective
    from dlrm.train.engine import plan_model

    leave_terminal()
    dataset = build_dataset(config.data)
    world = described_world(ranks, ranks_per_host)
    planned = plan_model(config, dataset.schema, world)
    workload = workload_of(config, dataset.schema, planned, world, measured_ids(dataset))
    return ranks * sum(bytes_by_collective(workload).values())
