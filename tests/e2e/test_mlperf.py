"""MLPerf's log of a small run, judged by MLCommons' own checker."""

import json
import sys

import pytest
from mlperf_logging.compliance_checker import mlp_compliance

from dlrm.errors import SetupError
from dlrm.run.mlperf import check_mlperf
from tests.support.command import run_command

SMALL = [
    *("--data.train_samples", "4000", "--data.validation_samples", "1000", "--data.test_samples", "1000"),
    *(
        "--data.rows",
        "100,50,20",
        "--model.bottom_mlp",
        "16,8",
        "--model.embedding_dim",
        "8",
        "--model.top_mlp",
        "16,1",
    ),
    *("--optim.dense", "{kind: adagrad, lr: 0.02}", "--optim.sparse", "{kind: adagrad, lr: 0.02}"),
    *("--train.global_batch_size", "250", "--evaluation.every_steps", "6", "--logging.tensorboard", "false"),
    *("--preflight.enabled", "false", "--logging.mlperf", "true", "--logging.mlperf_submission.division", "open"),
]


def judged(path):
    """What the checker of MLPerf Training 6.0 has to say of a log."""
    checker = mlp_compliance.make_checker("training", "6.0.0", quiet=False, werror=True)
    good, *_ = mlp_compliance.main(str(path), "training_6.0.0/common.yaml", checker)
    return good, [*checker.overwritable.values(), *checker.not_overwritable]


@pytest.fixture(scope="module")
def log(tmp_path_factory):
    folder = tmp_path_factory.mktemp("mlperf")
    words = ["train", *SMALL, f"--run.dir={folder}", "--train.epochs", "2", "--evaluation.target_auc", "0.51"]
    outcomes = run_command([*words, "--train.max_steps", "30"], 2)
    assert [outcome.exit_code for outcome in outcomes] == [0, 0], outcomes[0].stderr
    return folder / "run" / "mlperf.log"


def test_the_checker_accepts_the_log_by_the_open_rules_and_by_the_closed_ones_but_for_the_scale(log, tmp_path):
    good, messages = judged(log)
    assert good, "\n".join(messages)
    closed = tmp_path / "closed.log"
    closed.write_text(log.read_text().replace('"value": "open"', '"value": "closed"'))
    good, messages = judged(closed)
    assert not good
    # 1,000 samples are not the benchmark's 89,137,319, and a small model does not reach its AUC; nothing else is amiss.
    assert len(messages) == 2, "\n".join(messages)
    assert any("v['value'] == 89137319" in message for message in messages)
    assert any("v['value'] >= 0.80275" in message for message in messages)


def test_its_lines_are_those_of_the_run(log):
    lines = [json.loads(line.removeprefix(":::MLLOG ")) for line in log.read_text().splitlines()]
    metrics = [json.loads(line) for line in (log.parent / "metrics.jsonl").read_text().splitlines()]
    scores = [(entry["step"] / 16, entry["auc"]) for entry in metrics if entry["kind"] == "validation"]
    found = [(line["metadata"]["epoch_num"], line["value"]) for line in lines if line["key"] == "eval_accuracy"]
    assert found == scores
    keys = [line["key"] for line in lines]
    assert keys[:2] == ["cache_clear", "init_start"]
    assert keys[keys.index("run_start") :][:3] == ["run_start", "epoch_start", "block_start"]
    assert keys[-1] == "run_stop"
    assert lines[-1]["metadata"]["status"] == "success"  # 0.51 was reached
    for kind in ("block", "epoch", "eval", "init", "run"):
        assert keys.count(f"{kind}_start") == keys.count(f"{kind}_stop") > 0
    blocks = [line["metadata"] for line in lines if line["key"] == "block_start"]
    assert (blocks[0]["first_epoch_num"], blocks[0]["epoch_count"]) == (0, 6 / 16)


def test_a_log_that_cannot_be_kept_is_said_before_training(monkeypatch):
    monkeypatch.setitem(sys.modules, "mlperf_logging.mllog", None)
    with pytest.raises(SetupError, match=r"pip install --no-deps -r requirements/mlperf\.txt"):
        check_mlperf()
