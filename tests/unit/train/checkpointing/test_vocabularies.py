from types import SimpleNamespace

import pytest

from dlrm.errors import CheckpointError, CheckpointMismatchError
from dlrm.train.checkpointing.vocabularies import require_same_vocabularies, uncompared_line


def checkpoint(**metadata):
    return SimpleNamespace(path="step_1", metadata=metadata)


@pytest.mark.parametrize(
    ("here", "said"),
    [
        ({"t": "a", "u": "c"}, "column u has another vocabulary than in training"),
        ({"t": "a"}, "column u had a vocabulary in training"),
        ({"t": "a", "u": "b", "v": "c"}, "column v has a vocabulary here and had none in training"),
        ({"t": "b"}, r"column t has another vocabulary than in training \(and 1 more differ\)"),
    ],
)
def test_another_vocabulary_is_refused_in_a_line_that_says_what_to_do(here, said):
    with pytest.raises(CheckpointMismatchError, match=said) as error:
        require_same_vocabularies(checkpoint(vocabularies={"t": "a", "u": "b"}), here)
    assert "data.vocabulary.files" in str(error.value)
    assert "\n" not in str(error.value)


def test_the_same_ones_are_not_and_what_is_not_known_is_said():
    require_same_vocabularies(checkpoint(vocabularies={"t": "a"}), {"t": "a"})
    require_same_vocabularies(checkpoint(), {"t": "a"})
    assert uncompared_line(checkpoint(vocabularies={"t": "a"}), {"t": "a"}) == []
    assert uncompared_line(checkpoint(), {}) == []
    (line,) = uncompared_line(checkpoint(), {"t": "a"})
    assert "not compared" in line


@pytest.mark.parametrize("found", [["t"], {"t": 1}, "t"])
def test_what_is_no_digest_is_damage(found):
    with pytest.raises(CheckpointError, match=r"facts\.vocabularies"):
        require_same_vocabularies(checkpoint(vocabularies=found), {})
