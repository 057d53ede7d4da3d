"""DeepFM trains the same on any ranks under every sharding type, and goes on after a stop."""

import pytest

from dlrm.config import load_config
from tests.dist.test_same_training import MODEL_PARALLEL, assert_same_training
from tests.support.command import run_command
from tests.support.ranks import run_ranks
from tests.support.training import training_losses

MODEL = ["model.kind=deepfm", "model.deep_mlp=[16,8]", "model.embedding_dim=8"]
RATES = ["optim.dense={kind: adam, lr: 0.01}", "optim.lr_scale={deep_mlp: 0.5, dense_fields: 2.0, cat_1: 2.0}"]


def losses(world_size, *options):
    config = load_config(None, [*MODEL, *RATES, "train.global_batch_size=50", *options])
    by_rank = run_ranks(training_losses, world_size, config, 330, 30)
    assert all(of_rank == by_rank[0] for of_rank in by_rank)
    return by_rank[0]


@pytest.fixture(scope="module")
def one_rank():
    return losses(1, "sharding.types=table_wise")


@pytest.mark.parametrize("sharding", [*MODEL_PARALLEL, "data_parallel"])
def test_losses_do_not_depend_on_ranks_and_sharding(one_rank, sharding):
    assert_same_training(losses(2, f"sharding.types={sharding}"), one_rank)


def test_losses_do_not_depend_on_ranks_that_share_no_batch_evenly(one_rank):
    assert_same_training(losses(3, "sharding.types=row_wise"), one_rank)


def test_training_makes_progress(one_rank):
    assert sum(one_rank[-5:]) < 0.97 * sum(one_rank[:5])


def test_a_run_that_is_stopped_and_resumed_ends_with_the_scores_of_one_that_is_not(tmp_path):
    words = [
        *(
            "train",
            *MODEL,
            *RATES,
            "data={kind: random, rows: [7, 50, 30], num_dense: 3, train_samples: 300, test_samples: 100}",
        ),
        *("train.global_batch_size=32", "logging.tensorboard=false", "logging.progress=false", f"run.dir={tmp_path}"),
    ]

    def test_scores(name, *options):
        (outcome,) = run_command([*words, f"run.name={name}", *options])
        assert outcome.exit_code == 0, outcome.stderr
        line = (tmp_path / name / "metrics.jsonl").read_text().splitlines()[-1]
        assert '"kind": "test"' in line
        return line

    whole = test_scores("whole", "train.epochs=2")
    assert test_scores("parts", "train.epochs=1") != whole
    assert test_scores("parts", "train.epochs=2", "--resume", "auto") == whole
