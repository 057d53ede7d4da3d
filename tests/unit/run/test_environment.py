"""What environment.json tells of the code."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from dlrm.distributed.collectives import OneProcess
from dlrm.distributed.world import RankInfo, World
from dlrm.run.environment import environment

WORLD = World(rank_info=RankInfo(), device=torch.device("cpu"), backend="gloo", collectives=OneProcess())


@pytest.mark.parametrize(
    ("told", "commit", "modified"), [("4a383ea", "4a383ea", False), ("4a383ea-dirty", "4a383ea", True)]
)
def test_an_image_without_git_tells_the_commit_that_it_was_built_from(
    told: str, commit: str, modified: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DLRM_COMMIT", told)
    assert environment(WORLD)["git"] == {"commit": commit, "modified": modified}


def test_an_image_whose_build_was_not_told_the_commit_tells_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DLRM_COMMIT", "")
    monkeypatch.setenv("GIT_DIR", str(tmp_path / "none"))
    assert environment(WORLD)["git"] is None
