"""Where trials come from: every point of a grid, and draws that depend on the seed, the number and what was found."""

import pytest

from dlrm.config.study import Bayes, Grid, NoSearch, Random
from dlrm.errors import ConfigError
from dlrm.studies.searching import JOURNAL, searcher_of

LABELLED = [{"label": "slow", "options": {"optim.dense.lr": 0.1, "optim.sparse.lr": 0.2}}, {"label": "off"}]
SPACE = {
    "train.epochs": {"kind": "int", "low": 1, "high": 9, "step": 2},
    "rate": {"kind": "float", "low": 0.001, "high": 1.0, "log": True, "sets": ["optim.dense.lr", "optim.sparse.lr"]},
    "model.embedding_dim": [8, 16],
}


def searched(search, folder, count, worth):
    """Points and settings of a search whose trials have a worth."""
    searcher, found = searcher_of(search, "arm", "auc", folder), []
    while len(found) < count and (trials := searcher.ask()):
        for trial in trials:
            found.append((trial.number, dict(trial.point), dict(trial.settings)))
            searcher.tell(trial, worth(trial.point))
    return found


def test_a_grid_is_every_combination_and_labels_set_several_options(tmp_path):
    grid = Grid(space={"model.embedding_dim": [8, 16], "rate": LABELLED, "mlp": [[4, 2], [8]]})
    found = searched(grid, tmp_path, 99, lambda point: 0.5)
    assert [number for number, _, _ in found] == list(range(8))
    assert found[0][1:] == (
        {"model.embedding_dim": 8, "rate": "slow", "mlp": "[4, 2]"},
        {"model.embedding_dim": 8, "optim.dense.lr": 0.1, "optim.sparse.lr": 0.2, "mlp": [4, 2]},
    )
    assert found[3][2] == {"model.embedding_dim": 8, "mlp": [8]}
    assert len({str(point) for _, point, _ in found}) == 8
    assert searched(NoSearch(), tmp_path, 99, None) == []


def worth(point):
    return -abs(point["rate"] - 0.1) - 0.01 * point["train.epochs"]


@pytest.mark.parametrize("kind", [Random, Bayes])
def test_a_search_that_is_interrupted_goes_on_as_if_it_had_not_been(tmp_path, kind):
    more = {"startup_trials": 4, "round": 2} if kind is Bayes else {}
    search = kind(space=SPACE, trials=12, seed=5, **more)
    whole = searched(search, tmp_path / "a", 12, worth) if (tmp_path / "a").mkdir() is None else None
    (tmp_path / "b").mkdir()
    searched(search, tmp_path / "b", 5, worth)
    with (tmp_path / "b" / JOURNAL).open("ab") as journal:
        journal.write(b'{"op_code": 5, "work')  # what a kill leaves of a line
    assert searched(search, tmp_path / "b", 12, worth) == whole
    assert len(whole) == 12
    for _, point, settings in whole:
        assert point["train.epochs"] in (1, 3, 5, 7, 9)
        assert 0.001 <= point["rate"] <= 1.0
        assert settings["optim.dense.lr"] == settings["optim.sparse.lr"] == point["rate"]
    other = kind(space=SPACE, trials=12, seed=6, **more)
    (tmp_path / "c").mkdir()
    assert searched(other, tmp_path / "c", 12, worth)[0] != whole[0]


def test_draws_do_not_depend_on_what_was_found_and_proposals_do(tmp_path):
    for name in "abcd":
        (tmp_path / name).mkdir()
    draws, proposals = Random(space=SPACE, trials=12), Bayes(space=SPACE, trials=12, startup_trials=4)
    assert searched(draws, tmp_path / "a", 12, worth) == searched(draws, tmp_path / "b", 12, lambda point: 0.0)
    good, bad = (
        searched(proposals, tmp_path / name, 12, of) for name, of in (("c", worth), ("d", lambda p: -worth(p)))
    )
    assert good[:4] == bad[:4]
    assert good[6:] != bad[6:]


@pytest.mark.parametrize("other", [{"train.epochs": [1, 2]}, {**SPACE, "model.embedding_dim": [8, 32]}])
def test_a_journal_of_another_space_is_refused(tmp_path, other):
    searched(Random(space=SPACE, trials=2), tmp_path, 2, worth)
    with pytest.raises(ConfigError, match="holds trials of arm arm in another search space"):
        searcher_of(Random(space=other, trials=2), "arm", "auc", tmp_path)
