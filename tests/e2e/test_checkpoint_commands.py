"""``dlrm_main.py checkpoint ...`` as a whole: exit codes, and an imported model in the training engine."""

import torch

from dlrm.checkpoint.load import load_tensors
from dlrm.checkpoint.stored import open_checkpoint
from dlrm.errors import USER_ERROR_EXIT_CODE
from dlrm.train.checkpointing.state import after_load, engine_tensors
from dlrm.train.engine import build_engine
from tests.support.command import run_command
from tests.support.ranks import run_ranks
from tests.support.training import this_world
from tests.unit.checkpoint.tools.runs import a_state, flip, save
from tests.unit.checkpoint.tools.torchrec_models import (
    INTERACTIONS,
    OPTIONS,
    SCHEMA,
    config_of,
    some_batch,
    their_logits,
    their_model,
)  # fmt: skip


def run_checkpoint(*words):
    return run_command(["checkpoint", *map(str, words)])[0]


def test_exit_codes_and_where_things_are_printed(tmp_path):
    path = save(tmp_path / "run" / "checkpoints", 10, a_state())
    good = run_checkpoint("verify", tmp_path / "run")
    assert (good.exit_code, good.stderr) == (0, "")
    assert "step_00000010: whole" in good.stdout
    flip(next(path.glob("*.safetensors")))
    bad = run_checkpoint("verify", tmp_path / "run")
    assert bad.exit_code == USER_ERROR_EXIT_CODE
    assert "are not those that were written" in bad.stdout
    assert bad.stderr.count("\n") == 1
    assert "damaged; 1 fault in 1 checkpoint" in bad.stderr


def logits_of_engine(rank, world_size, path, kind):
    """What the trainer's model predicts for one batch, after loading what fits; and what did not."""
    engine = build_engine(config_of(kind), SCHEMA, this_world())
    left = load_tensors(
        open_checkpoint(path), engine_tensors(engine), strict=False, collectives=this_world().collectives
    )
    after_load(engine)
    dense, sparse = some_batch(seed=rank)
    with torch.no_grad():
        logits = engine.model.eval().module.model(dense, sparse)
    return logits, left


def test_an_imported_model_predicts_in_the_trainer_s_engine_what_it_did(tmp_path):
    model = their_model("dcn")
    torch.save(model.state_dict(), tmp_path / "weights.pt")
    words = ["import", tmp_path / "weights.pt", "--output", tmp_path / "out", *OPTIONS, *INTERACTIONS["dcn"]]
    outcome = run_checkpoint(*words)
    assert (outcome.exit_code, outcome.stderr) == (0, "")
    found = run_ranks(logits_of_engine, 2, str(tmp_path / "out" / "step_00000000"), "dcn")
    for rank, (logits, left) in enumerate(found):
        torch.testing.assert_close(logits, their_logits(model, some_batch(seed=rank)), rtol=1e-5, atol=1e-5)
        assert left
        assert all(".optimizer." in what and "is not in the checkpoint" in what for what in left)
