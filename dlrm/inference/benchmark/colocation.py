"""What models that share threads cost each other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from dlrm.inference.benchmark.measure import Measured
from dlrm.inference.benchmark.points import Point


@dataclass(frozen=True)
class Shared:
    """A number of models on the threads of one.

    Attributes:
        point: where they were measured.
        models: how many; rate_per_model: bounded rate of each, requests/s; relative: to that of one alone.
        total: bounded rate of all, relative to one alone's.
        closed_relative: of each model, what clients got of it, relative to when it was alone.
        added: by how much the models since the number before have changed the rate of each, as a share; None for the first.
    """

    point: Point
    models: int
    rate_per_model: float
    relative: float
    total: float
    closed_relative: tuple[float, ...]
    added: float | None

    def to_dict(self) -> dict[str, Any]:
        """As JSON has it."""
        return {**asdict(self), "point": self.point.to_dict()}


def shared(found: Sequence[Measured]) -> list[Shared]:
    """All points with more models than one whose exports were measured alone, too, and what they are compared with."""
    alone = {one.point: one for one in found if one.point.models == 1}
    result: list[Shared] = []
    before: dict[Point, float] = {}
    for one in sorted(found, key=lambda measured: measured.point.models):
        members = [alone.get(replace(one.point, members=(member,))) for member in one.point.members]
        present = [member for member in members if member is not None and member.bounded_rate]
        if len(present) < len(members) or not one.bounded_rate:
            continue
        base = sum(member.bounded_rate for member in present) / len(present)
        rate = one.bounded_rate / one.point.models
        group = replace(one.point, members=(0,))
        if one.point.models == 1 and one.point.members != (0,):
            continue
        earlier = before.get(group)
        result.append(
            Shared(
                one.point,
                one.point.models,
                rate,
                relative=rate / base,
                total=one.bounded_rate / base,
                closed_relative=_closed_relative(one, present),
                added=None if earlier is None else rate / base / earlier - 1,
            )
        )
        before[group] = rate / base
    return result


def _closed_relative(one: Measured, alone: Sequence[Measured]) -> tuple[float, ...]:
    if not one.closed.models:
        return (1.0,)
    return tuple(
        of_model.requests_per_s / member.closed.requests_per_s
        for of_model, member in zip(one.closed.models, alone, strict=True)
    )
