"""The cases of the rehearsal: their command lines are ones that dlrm_main.py takes."""

import math

import pytest

from dlrm.command.arguments import parse
from scripts.rehearse_cuda import matrix
from scripts.rehearse_cuda.job import Solo, with_defaults
from scripts.rehearse_cuda.losses import differences, losses_of

CASES = list(matrix.cases())


def test_names_are_told_apart_and_the_sample_is_among_them():
    names = [case.name for case in CASES]
    assert len(names) == len(set(names))
    assert set(matrix.SAMPLE) <= set(names)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_the_command_takes_the_words_of_a_case(case):
    for words in filter(None, (case.asked.words, case.then)):
        config = parse(with_defaults(words, "folder")).config()
        assert config.distributed.device == "cuda"
        assert config.run.dir == "folder"
        assert config.train.max_steps > case.asked.warmup


def test_what_the_words_say_is_kept():
    words = ["train", "--distributed.device", "cpu", "run.dir=mine"]
    assert with_defaults(words, "folder") == words


@pytest.mark.parametrize("text", ["8/8/8", "0/8", "-1/8/8", "0/8/9", "a/8/8"])
def test_a_rank_outside_of_its_world_is_refused(text):
    with pytest.raises(ValueError):  # noqa: PT011  # argparse says which option
        Solo.parse(text)


def test_one_rank_of_many_is_told_where_it_is():
    environment = Solo.parse("9/16/8").environment()
    assert {name: environment[name] for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")} == {
        "RANK": "9",
        "WORLD_SIZE": "16",
        "LOCAL_RANK": "1",
        "LOCAL_WORLD_SIZE": "8",
    }


@pytest.mark.parametrize(
    ("found", "said"),
    [
        ({1: 0.5, 2: 0.25}, ""),
        ({1: 0.50001, 2: 0.25}, ""),  # sums are taken in another order
        ({1: 0.5, 2: 0.26}, "step 2: the rehearsal's loss is 0.26, the CPU's 0.25"),
        ({1: 0.5}, "1 losses were rehearsed, 2 come from the CPU"),
        ({1: math.nan, 2: 0.25}, "step 1: the rehearsal's loss is nan, the CPU's 0.5"),
    ],
)
def test_losses_are_compared_step_by_step(found, said):
    assert differences(found, {1: 0.5, 2: 0.25}) == ([said] if said else [])


def test_nothing_trained_is_no_agreement():
    assert differences({}, {})


def test_losses_are_those_of_the_model_and_not_of_a_task(tmp_path):
    metrics = tmp_path / "metrics.jsonl"
    lines = ['{"kind": "train", "step": 1, "loss": 0.5}', '{"kind": "train", "step": 1, "task": "like", "loss": 0.2}']
    metrics.write_text("\n".join([*lines, '{"kind": "validation", "step": 1, "auc": 0.7}']))
    assert losses_of(metrics) == {1: 0.5}
