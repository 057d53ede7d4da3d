"""``dlrm_main.py evaluate`` as a whole: what a person sees, what is written, and every way in which it refuses."""

import json
import shutil

import pytest

from tests.e2e.test_bad_input import assert_one_line_and_exit_code_2
from tests.support.command import run_command

RUN = [
    *("--data.train_samples", "2000", "--data.validation_samples", "0", "--data.test_samples", "999"),
    *("--data.rows", "40,50,8", "--data.num_dense", "3", "--model.bottom_mlp", "16,8", "--model.embedding_dim", "8"),
    *("--model.top_mlp", "16,1", "--train.global_batch_size", "256", "--logging.tensorboard", "false"),
]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    (outcome,) = run_command(["train", *RUN, "--run.name", "r", "--run.dir", str(folder)])
    assert outcome.exit_code == 0, outcome
    return folder / "r"


def evaluate(*words, ranks=1):
    return run_command(["evaluate", *map(str, words)], ranks)


def test_figures_of_training_are_shown_and_written_and_only_rank_0_speaks(run, tmp_path):
    leader, other = evaluate(run, "--slices", "cat_0,int_1", "--output", tmp_path / "new" / "out.json", ranks=2)
    assert (leader.exit_code, leader.stderr, other.exit_code) == (0, "", 0), leader
    assert (other.stdout, other.stderr) == ("", "")
    summary = json.loads((run / "summary.json").read_text())
    for part in ("weights of", "step_00000008 (step 8)", "best reachable", "by cat_0", "by int_1", "out.json", "8/8"):
        assert part in leader.stdout
    assert f"{summary['test']['auc']:.4f}" in leader.stdout
    written = json.loads((tmp_path / "new" / "out.json").read_text())
    assert written["tasks"]["label"]["auc"] == pytest.approx(summary["test"]["auc"], abs=1e-5)
    assert [path.name for path in run.iterdir() if path.name == "log"] == ["log"]  # nothing is added to the run


def test_a_damaged_checkpoint_is_told_by_one_rank(run, tmp_path):
    shutil.copytree(run / "checkpoints", tmp_path / "checkpoints")
    path = next(tmp_path.glob("checkpoints/*/rank_0000.safetensors"))
    content = bytearray(path.read_bytes())
    content[8 + int.from_bytes(content[:8], "little")] ^= 1  # behind the header
    path.write_bytes(content)
    outcomes = evaluate(tmp_path, ranks=2)
    assert_one_line_and_exit_code_2(outcomes, "rank_0000.safetensors", "are not those that were written")


REFUSED = {
    "a slice column that is not there": (["--slices", "cat_0,int_11"], ["slices", "no column int_11", "mean int_1"]),
    "a split without samples": (["--split", "validation"], ["split: is validation", "there are some in train, test"]),
    "fewer rows": (["--data.rows", "40,49,8"], ["table cat_1 has 50 rows in the checkpoint, 49 by the data"]),
    "a model": (["--model.top_mlp", "8,1"], ["model.top_mlp: is the checkpoint's"]),
    "other data that are not there": (
        ["--data.kind", "packed", "--data.path", "/nowhere"],
        ["/nowhere: there is no such folder"],
    ),
}


@pytest.mark.parametrize(("words", "parts"), REFUSED.values(), ids=REFUSED)
def test_what_does_not_fit_is_one_line_before_anything_is_scored(run, words, parts):
    outcomes = evaluate(run, *words)
    assert_one_line_and_exit_code_2(outcomes, *parts)
    assert "steps" not in outcomes[0].stdout


def test_what_is_no_checkpoint_is_one_line(run, tmp_path):
    assert_one_line_and_exit_code_2(evaluate(tmp_path / "nowhere"), "there is no such folder")
    assert_one_line_and_exit_code_2(evaluate(tmp_path), "holds no good checkpoint")
    assert_one_line_and_exit_code_2(evaluate(run / "summary.json"), "is a file; name the folder of a run")
