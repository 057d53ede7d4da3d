"""A run whose checkpoints are in an S3 bucket, on a real server on the loopback address."""

import pytest

from dlrm.checkpoint.remote import located
from dlrm.checkpoint.stored import find_damage, open_checkpoint
from tests.launch.launching import finished

TRAIN = [
    *("dlrm_main.py", "train", "--data.kind", "random", "--data.train_samples", "2000", "--data.rows", "100,50,30"),
    *("--model.embedding_dim", "8", "--model.bottom_mlp", "8", "--model.top_mlp", "8,1", "--train.epochs", "2"),
    *("--train.global_batch_size", "100", "--logging.tensorboard", "false", "--logging.progress", "false"),
]


@pytest.mark.slow
def test_a_run_saves_into_a_bucket_and_another_machine_scores_it_and_goes_on_from_there(bucket, tmp_path):
    places = ["--checkpoint.dir", f"{bucket.url}/all runs", "--run.name", "a"]
    first = finished(
        *("launch/elastic.py", "--standalone", "--local-addr", "localhost", "--nproc-per-node", "2"),
        *(*TRAIN, *places, "--run.dir", str(tmp_path / "one machine"), "--train.max_steps", "12"),
    )
    assert first.returncode == 0, first.stderr
    path = f"{bucket.url}/all runs/a/step_00000012"
    assert find_damage(open_checkpoint(*reversed(located(path)))) == []
    scored = finished("dlrm_main.py", "evaluate", f"{bucket.url}/all runs/a", "--split", "train", "--slices", "cat_2")
    assert scored.returncode == 0, scored.stderr
    assert f"weights of {path} (step 12)" in " ".join(scored.stdout.split())
    again = finished(
        *TRAIN, *places, "--run.dir", str(tmp_path / "another"), "--resume", "auto", "--checkpoint.every_steps", "9"
    )
    assert again.returncode == 0, again.stderr
    said = " ".join(again.stdout.split())
    assert f"resumed from {path} (step 12, 1,200 samples)" in said
    assert {key.split("/")[2] for key in bucket.all_keys()} == {"step_00000036", "step_00000040"}
    mixed = finished(*TRAIN, *places, "--run.dir", str(tmp_path / "a third"))
    assert mixed.returncode == 2
    assert f"run.name: {bucket.url}/all runs/a holds 2 checkpoint(s) of an earlier run" in mixed.stderr
