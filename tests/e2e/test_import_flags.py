"""A command line of the other trainer, trained here."""

import json

import pytest
import yaml

from tests.support.command import run_command

WORDS = [
    *("torchrun", "--nproc_per_node", "2", "dlrm_main.py", "--num_embeddings", "50", "--embedding_dim", "8"),
    *("--dense_arch_layer_sizes", "16,8", "--over_arch_layer_sizes", "16,1", "--batch_size", "16", "--adagrad"),
    *("--learning_rate", "0.01", "--limit_train_batches", "5", "--limit_val_batches", "2", "--limit_test_batches", "3"),
    *(
        "--validation_freq_within_epoch",
        "2",
        "--interaction_type",
        "dcn",
        "--dcn_low_rank_dim",
        "4",
        "--test_batch_size",
        "8",
    ),
]


@pytest.mark.slow
def test_the_configuration_of_a_command_line_trains(tmp_path):
    (printed,) = run_command(["import-flags", "--", *WORDS])
    assert (printed.exit_code, printed.stderr) == (0, "")
    (tmp_path / "moved.yaml").write_text(printed.stdout)
    outcomes = run_command(["train", "--config", str(tmp_path / "moved.yaml"), f"run.dir={tmp_path}"], world_size=2)
    assert [outcome.exit_code for outcome in outcomes] == [0, 0], outcomes[0].stderr
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert (summary["steps"], summary["samples"]) == (5, 5 * 16 * 2)
    assert (summary["validation"]["samples"], summary["test"]["samples"]) == (2 * 8 * 2, 3 * 8 * 2)
    assert yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())["model"]["interaction"]["rank"] == 4


def test_a_mistake_in_a_command_line_is_one_line_and_exit_code_2():
    (outcome,) = run_command(["import-flags", "--", *WORDS, "--adagard"])
    assert (outcome.exit_code, outcome.stdout) == (2, "")
    assert outcome.stderr.splitlines() == ["--adagard: unknown flag of that trainer; did you mean --adagrad?"]
