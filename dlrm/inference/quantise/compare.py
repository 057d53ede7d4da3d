"""What fewer bits cost: size, quality and speed of an export in several precisions, on the same samples."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass

from dlrm.inference.exported.manifest import DensePrecision, Precision
from dlrm.inference.quantise.choice import possible
from dlrm.inference.quantise.scores import Scored, Speed, compare_speed, figures
from dlrm.inference.quantise.variants import Variants
from dlrm.metrics.tasks import deciding


@dataclass(frozen=True)
class Row:
    """An export in certain precisions; differences are to float32, whose are 0.

    Attributes:
        tables: precision of all tables, or ``mixed``; dense: of the dense part.
        table_bytes, dense_bytes: of the tables' rows and of the dense part's file; file_bytes: of all files.
        auc, log_loss, normalised_entropy: of the first task; None where the samples do not define one.
        rows_per_s, least_rows_per_s, most_rows_per_s: of one thread; times_as_fast: as float32, median of pairs of runs.
    """

    tables: str
    dense: DensePrecision
    table_bytes: int
    dense_bytes: int
    file_bytes: int
    auc: float | None
    auc_difference: float | None
    log_loss: float | None
    log_loss_difference: float | None
    normalised_entropy: float | None
    normalised_entropy_difference: float | None
    rows_per_s: float
    least_rows_per_s: float
    most_rows_per_s: float
    times_as_fast: float

    def to_dict(self) -> dict[str, str | int | float | None]:
        """The fields by name, ready for JSON and CSV."""
        return asdict(self)


NamedMix = tuple[str, tuple[Precision, ...], DensePrecision]
"""Name, precision of each table, and of the dense part."""


def uniform_mixes(dims: Sequence[int], tables: Sequence[Precision], dense: Sequence[DensePrecision]) -> list[NamedMix]:
    """float32; and all tables in one precision, with each precision of the dense part."""
    found: list[NamedMix] = [("fp32", tuple(possible("fp32", dim) for dim in dims), "fp32")]
    for part in dense:
        found += [(table, tuple(possible(table, dim) for dim in dims), part) for table in tables]
    return list(dict.fromkeys(found))


def compare(
    variants: Variants,
    mixes: Sequence[NamedMix],
    scored: Scored,
    *,
    timed_rows: int,
    timed_runs: int,
    tell: Callable[[str], None],
) -> list[Row]:
    """Score and measure each mix.

    Args:
        variants: of the export.
        mixes: what to look at.
        scored: the samples.
        timed_rows: samples of a run of a measurement of speed.
        timed_runs: how many of those.
        tell: is told, in a word, what is looked at.
    """
    base = variants.base
    reference = deciding(figures(base.logits(scored.features), scored, base.schema))
    timed = scored.features[:timed_rows]
    rows = []
    for name, precisions, dense in mixes:
        tell(f"{name} tables, {dense} dense")
        predictor = variants.predictor(precisions, dense)
        found = deciding(figures(predictor.logits(scored.features), scored, base.schema))
        _, speed = compare_speed(base, predictor, timed, runs=timed_runs)
        manifest = predictor.manifest
        rows.append(
            Row(
                tables=name,
                dense=dense,
                table_bytes=manifest.table_bytes,
                dense_bytes=len(variants.program(dense)),
                file_bytes=variants.file_bytes(precisions, dense),
                auc=found.auc,
                auc_difference=_difference(found.auc, reference.auc),
                log_loss=found.log_loss,
                log_loss_difference=_difference(found.log_loss, reference.log_loss),
                normalised_entropy=found.normalised_entropy,
                normalised_entropy_difference=_difference(found.normalised_entropy, reference.normalised_entropy),
                **_speed_fields(speed),
            )
        )
        del predictor  # before the next one takes memory
    return rows


def _difference(found: float | None, reference: float | None) -> float | None:
    return None if found is None or reference is None else found - reference


def _speed_fields(speed: Speed) -> dict[str, float]:
    return {
        "rows_per_s": speed.rows_per_s,
        "least_rows_per_s": speed.least,
        "most_rows_per_s": speed.most,
        "times_as_fast": speed.times_as_fast,
    }
