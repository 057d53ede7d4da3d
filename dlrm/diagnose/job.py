"""``dlrm_main.py diagnose``, and the look that training begins with."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from dlrm.config import Config
from dlrm.config.diagnose import DiagnoseConfig
from dlrm.data.build import build_dataset
from dlrm.data.source import Dataset
from dlrm.diagnose.after_run import judge_run, read_records
from dlrm.diagnose.finding import Finding
from dlrm.diagnose.preflight import Preflight, look_at_data
from dlrm.format import counted
from dlrm.run.console import Console
from dlrm.run.secondary import require_writable, write_json


def run_diagnosis(config: DiagnoseConfig) -> dict[str, Any]:
    """Look at a run's figures, if one is named, and at the data; show and return what was found.

    Raises:
        DlrmError: what the user can mend, a sample that must not be trained on among it.
    """
    require_writable(config.output)
    display = Console(progress=False)
    findings: list[Finding] = []
    result: dict[str, Any] = {"run": config.path or None}
    if config.path:
        records = read_records(config.path)
        findings += judge_run(records, warmup_steps=config.optim.schedule.warmup_steps)
        display.say(f"{config.path}: {counted(len(records.entries), 'record')} of metrics.jsonl")
    if config.data_too:
        found = look_at_data(
            config.data, build_dataset(config.data), samples=config.samples, time_limit_s=config.time_limit_s
        )
        display.say(f"looked at {found.looked_at}")
        findings += found.findings
        result |= {"looked_at": found.looked_at, "overlaps": [asdict(overlap) for overlap in found.overlaps]}
    for finding in findings:
        display.say(str(finding))
    if not findings:
        display.say("nothing was found")
    result["findings"] = [finding.to_dict() for finding in findings]
    if config.output:
        write_json(Path(config.output), result)
        display.say(f"written to {config.output}")
    return result


def preflight_lines(config: Config, dataset: Dataset) -> list[str]:
    """What is to be told before a training begins; for rank 0.

    Raises:
        DataError: a sample cannot be read, or must not be trained on.
    """
    asked = config.preflight
    found: Preflight = look_at_data(config.data, dataset, samples=asked.samples, time_limit_s=asked.time_limit_s)
    if not found.findings:
        return []
    return [*map(str, found.findings), f"found by a look at {found.looked_at}; preflight.enabled false leaves it out"]
