"""Points that differ in the number of ranks only, as a line: how a level of the factors scales.

Terms: a *level* is a choice of all factors but those that ranks, hosts and batch already say. Scaling is *weak* where the
samples of a rank stay the same, and *strong* where those of the whole step do.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median

from dlrm.scaling.report.points import Point

WEAK, STRONG, SINGLE = "weak", "strong", "single"


@dataclass(frozen=True)
class Level:
    """A line.

    Attributes:
        name: what tells it from the others.
        kind: weak, strong, or single where all points have as many ranks.
        points: by number of ranks.
    """

    name: str
    kind: str
    points: tuple[Point, ...]

    def line(self, source: str) -> dict[int, float]:
        """Samples/s by number of ranks; the median where several points have as many."""
        found: dict[int, list[float]] = {}
        for point in self.points:
            if source in point.throughput:
                found.setdefault(point.ranks, []).append(point.throughput[source].value)
        return {ranks: median(values) for ranks, values in found.items()}

    def efficiency(self, source: str) -> dict[int, float]:
        """Samples/s of a rank relative to the smallest job's, by number of ranks.

        Of strong scaling this is the speed-up over the smallest job divided by how many times as many ranks there are.
        """
        line = self.line(source)
        if not line or (of_rank := line[min(line)] / min(line)) <= 0:
            return {}
        return {ranks: value / ranks / of_rank for ranks, value in line.items()}


def levels_of(points: Sequence[Point], otherwise: str = "all points") -> list[Level]:
    """All points as lines, in the order of the table.

    Args:
        points: of one experiment or several.
        otherwise: the name of a line that has no other to be told from.
    """
    experiments = list(dict.fromkeys(point.experiment for point in points))
    found: list[Level] = []
    for experiment in experiments:
        own = [point for point in points if point.experiment == experiment]
        prefix = [experiment] if len(experiments) > 1 else []
        found += _levels(own, prefix, otherwise)
    return found


def telling_factors(points: Sequence[Point]) -> list[str]:
    """The factors that tell points apart, but for those that only repeat the number of ranks, of hosts or of samples."""
    names = list(dict.fromkeys(name for point in points for name in point.factors))
    return [name for name in names if _tells(name, points)]


def fixed_factors(points: Sequence[Point]) -> dict[str, str]:
    """The factors that are the same in all points."""
    if not points:
        return {}
    first = points[0].factors
    return {name: value for name, value in first.items() if all(p.factors.get(name) == value for p in points)}


def short_names(factors: Iterable[str]) -> dict[str, str]:
    """The last word of each dotted option, or as many of the last as make it another than the others.

    The kind of a thing is what it is: ``interaction.kind`` is shown as ``interaction``.
    """
    told = {factor: factor.removesuffix(".kind") for factor in factors}
    shown = {}
    for factor, name in told.items():
        words = name.split(".")
        endings = (".".join(words[-count:]) for count in range(1, len(words) + 1))
        others = [other for key, other in told.items() if key != factor]
        free = (e for e in endings if not any(other == e or other.endswith(f".{e}") for other in others))
        shown[factor] = next(free, factor)
    return shown


def _tells(name: str, points: Sequence[Point]) -> bool:
    if len({point.factors.get(name) for point in points}) < 2:
        return False
    repeated: tuple[Callable[[Point], float], ...] = (
        lambda point: point.ranks,
        lambda point: point.hosts,
        lambda point: point.ranks / point.hosts,
        lambda point: point.batch,
        lambda point: point.batch / point.ranks,
    )
    numbers = [_number(point.factors.get(name)) for point in points]
    return not any(all(number == of(point) for number, point in zip(numbers, points, strict=True)) for of in repeated)


def _number(text: str | None) -> float | None:
    try:
        return None if text is None else float(text)
    except ValueError:
        return None


def _levels(points: Sequence[Point], prefix: list[str], otherwise: str) -> list[Level]:
    factors = telling_factors(points)
    weak = _grouped(points, factors, lambda point: point.batch / point.ranks)
    strong = _grouped(points, factors, lambda point: point.batch)
    groups, of = (strong, "step") if len(strong) < len(weak) else (weak, "rank")
    shown, batches = short_names(factors), {batch for _, batch, _ in groups}
    one_width = len({width for _, _, width in groups}) == 1
    found = []
    for (values, batch, width), own in groups.items():
        words = [f"{shown[name]} {value}" for name, value in zip(factors, values, strict=True) if value is not None]
        if len(batches) > 1:
            words.append(f"{batch:,.6g} samples a {of}")
        if not one_width:
            words.append(f"{width:g} ranks a host")
        several = len({point.ranks for point in own}) > 1
        kind = SINGLE if not several else WEAK if of == "rank" else STRONG
        name = ", ".join(prefix + words) or otherwise
        found.append(Level(name, kind, tuple(sorted(own, key=lambda point: point.ranks))))
    return found


_Key = tuple[tuple[str | None, ...], float, float]


def _grouped(
    points: Sequence[Point], factors: Sequence[str], batch: Callable[[Point], float]
) -> Mapping[_Key, list[Point]]:
    """Points by factors and samples; also by ranks a host where else two of them had as many ranks."""
    found: dict[_Key, list[Point]] = {}
    for point in points:
        key = (tuple(point.factors.get(name) for name in factors), batch(point), 0.0)
        found.setdefault(key, []).append(point)
    if all(len({point.ranks for point in own}) == len(own) for own in found.values()):
        return found
    finer: dict[_Key, list[Point]] = {}
    for (values, samples, _), own in found.items():
        for point in own:
            finer.setdefault((values, samples, point.ranks / point.hosts), []).append(point)
    longest = max(len({point.ranks for point in own}) for own in finer.values())
    return finer if longest > 1 else found
