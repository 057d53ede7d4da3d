"""Other ways to shard the same model, and how they compare with the plan."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from dlrm.config.plan import PlanConfig
from dlrm.config.sharding import ShardingKind
from dlrm.errors import DlrmError
from dlrm.scaling.plan.forecast import Forecast

_SYNC_STEPS = 100
COMMON: tuple[ShardingKind, ...] = ("table_wise", "row_wise", "table_row_wise", "column_wise")


@dataclass(frozen=True)
class Strategy:
    """A way to shard.

    Attributes:
        name: of it.
        found: what it takes; None where it cannot be.
        reason: why not, in a line.
    """

    name: str
    found: Forecast | None
    reason: str = ""


def compared(
    config: PlanConfig, kinds: Sequence[ShardingKind], predict: Callable[[PlanConfig], Forecast]
) -> list[Strategy]:
    """Each kind on its own, for every table that has no constraints of its own; and a copy of the tables on each host.

    Args:
        config: of the plan.
        kinds: sharding types.
        predict: of a configuration.
    """
    others: list[tuple[str, dict[str, object]]] = [(kind, {"types": (kind,)}) for kind in kinds]
    hosts, per_host = config.hosts_and_devices or (1, 1)
    if hosts > 1 and config.device and config.sharding.group_size is None:
        copies: dict[str, object] = {"group_size": per_host, "inter_host_sync": True, "sync_steps": _SYNC_STEPS}
        others.append((f"a copy on each host, averaged every {_SYNC_STEPS} steps", copies))
    found = []
    for name, changes in others:
        sharding = config.sharding.model_copy(update=changes)
        found.append(_predicted(name, config.model_copy(update={"sharding": sharding}), predict))
    return found


def _predicted(name: str, config: PlanConfig, predict: Callable[[PlanConfig], Forecast]) -> Strategy:
    try:
        return Strategy(name, predict(config))
    except DlrmError as error:
        return Strategy(name, None, str(error).splitlines()[0])


def on_more_devices(
    config: PlanConfig, counts: Sequence[int], predict: Callable[[PlanConfig], Forecast]
) -> list[Strategy]:
    """The same plan's options on other numbers of devices, with as many samples of each (weak scaling).

    Args:
        config: of the plan, with a cluster.
        counts: numbers of devices.
        predict: of a configuration.
    """
    assert config.hosts_and_devices is not None
    hosts, per_host = config.hosts_and_devices
    of_each = config.train.global_batch_size / (hosts * per_host)
    found = []
    for count in counts:
        on_host = min(count, per_host)
        if count % on_host:
            found.append(Strategy(str(count), None, f"{count} devices do not divide into hosts of {per_host}"))
            continue
        batch = max(count, round(of_each * count / config.train.accumulation_steps) * config.train.accumulation_steps)
        train = config.train.model_copy(update={"global_batch_size": batch})
        resized = config.model_copy(update={"train": train, "cluster": f"{count // on_host}x{on_host}"})
        found.append(_predicted(str(count), resized, predict))
    return found
