"""What training leaves for ``status``; tests/launch/test_status.py looks at jobs while they run."""

from dlrm.run.status.ages import Ages
from dlrm.run.status.job import look
from tests.e2e.test_run import SMALL
from tests.support.command import run_command


def test_a_run_that_has_finished_and_one_that_has_diverged_say_so(tmp_path):
    options = ["train", *SMALL, "--logging.tensorboard", "false", f"run.dir={tmp_path}"]
    run_command([*options, "run.name=well"], 2)
    found = look(tmp_path / "well", Ages())
    assert (found.state, found.text, found.step, found.total_steps) == ("finished", "all epochs trained", 16, 16)
    assert [(one.beat.rank, one.beat.ended, one.beat.step) for one in found.ranks] == [
        (0, "finished", 16),
        (1, "finished", 16),
    ]
    assert found.saved.step == 16
    assert found.test.number("auc") > 0.5

    run_command([*options, "run.name=ill", "optim.dense.lr=1e30"], 2)
    found = look(tmp_path / "ill", Ages())
    assert found.state == "failed"
    assert "training has diverged" in found.fault.line
    assert found.fault.by_user
