"""What predict says at its end, and the figures that it leaves beside the output."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from dlrm.config.predict import PredictConfig
from dlrm.files import write_json
from dlrm.format import counted, escaped
from dlrm.inference.predict.assemble import Outcome
from dlrm.metrics.binary import BinaryResult
from dlrm.progress import duration


def metrics_path(output: Path) -> Path:
    """Where the figures are, if there are labels."""
    return output.with_name(f"{output.name}.metrics.json")


def write_metrics(path: Path, outcome: Outcome) -> None:
    """Write the figures of each task; those of an earlier output go away where there are none."""
    if outcome.results is None:
        path.unlink(missing_ok=True)
        return
    counts = {"rows": outcome.rows, "skipped": outcome.skipped, "non_finite": outcome.non_finite}
    figures = {task: result.to_dict() for task, result in outcome.results.items()}
    write_json(path, {**counts, "tasks": figures}, indent=1)


def summary(config: PredictConfig, outcome: Outcome, scored: int, seconds: float) -> str:
    """Rows, seconds, rows a second and figures, a line a task of several."""
    rate = f", {scored / seconds:,.0f} rows/s" if scored else ""
    earlier = outcome.rows - scored
    before = f" ({earlier:,} of them scored earlier)" if scored < outcome.rows else ""
    without = f", {counted(outcome.skipped, 'row')} skipped" if outcome.skipped else ""
    took = f"{seconds:.1f} s" if seconds < 60 else duration(seconds)
    lines = [f"{counted(outcome.rows, 'row')}{before}{without} in {took}{rate}: {config.output}"]
    if outcome.non_finite:
        lines[0] += f"; {counted(outcome.non_finite, 'row')} whose predictions are NaN or infinite"
        lines[0] += ", so there are no figures" if outcome.labelled and outcome.results is None else ""
    results = outcome.results or {}
    tasks: Sequence[str] = list(results)
    for task in tasks:
        lines.append(f"{f'{escaped(task, 40)}: ' if len(tasks) > 1 else ''}{_figures(results[task])}")
    return "\n".join(lines)


def _figures(result: BinaryResult) -> str:
    figures = {
        "AUC": result.auc,
        "log loss": result.log_loss,
        "normalised entropy": result.normalised_entropy,
    }
    shown = [f"{name} {value:.6f}" for name, value in figures.items() if value is not None]
    return ", ".join([*shown, f"of {counted(result.samples, 'label')}"])
