"""choices.json: what was chosen for each arm before any test sample was scored, and whether that has ever changed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dlrm.jobs.spec import json_mapping
from dlrm.run.secondary import write_json
from dlrm.studies.choice import Trial

CHOICES = "choices.json"
_FORMAT = "dlrm-study-choices"


class Choices:
    """The choices of a study.

    Args:
        folder: of the study.
        seeds: with which trials were trained.
        metric: by which they were compared.
    """

    def __init__(self, folder: Path, seeds: Sequence[int], metric: str) -> None:
        self._path, self._seeds, self._metric = folder / CHOICES, list(seeds), metric
        found = json_mapping(self._path)
        arms = found.get("arms") if found.get("format") == _FORMAT else None
        self._arms: dict[str, dict[str, Any]] = arms if isinstance(arms, dict) else {}

    def keep(self, arm: str, trial: Trial) -> None:
        """Keep a choice; one that differs from an earlier one is kept beside it.

        Raises:
            OSError: it cannot be written.
        """
        now = {"trial": trial.number, "point": dict(trial.point), "settings": dict(trial.settings)}
        before = self._arms.get(arm, {})
        earlier = before.get("earlier", [])
        if before and before.get("settings") != now["settings"]:
            earlier = [*earlier, {key: before[key] for key in now if key in before}]
        value = trial.value(self._seeds)
        self._arms[arm] = {**now, "validation": value, "metric": self._metric, "seeds": self._seeds, "earlier": earlier}
        write_json(self._path, {"format": _FORMAT, "version": 1, "arms": self._arms})

    def of(self, arm: str) -> Trial | None:
        """What was chosen last."""
        found = self._arms.get(arm)
        if found is None:
            return None
        return Trial(found["trial"], found["point"], found["settings"], settled=True)

    def changes(self, arm: str) -> int:
        """How often the choice has changed after it was made."""
        return len(self._arms.get(arm, {}).get("earlier", []))
