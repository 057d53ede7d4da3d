"""The studies that the project ships."""

from pathlib import Path

import pytest

from dlrm.studies.arms import arms_of, read_study

FOLDER = Path(__file__).resolve().parents[3] / "configs" / "studies"


@pytest.mark.parametrize("path", sorted(FOLDER.iterdir()), ids=lambda path: path.stem)
def test_every_study_loads_with_all_its_arms_and_is_called_like_its_file(path):
    study = read_study(str(path))
    assert study.name == path.stem
    assert study.description
    arms = arms_of(study, str(path))
    assert arms.keys() == {name for name, arm in study.arms.items() if not arm.of}
