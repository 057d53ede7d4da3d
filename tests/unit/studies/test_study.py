"""What a study does with its runs: which score test samples, what is chosen, kept and run again; the runs are made up."""

import csv
import json
import os
import shutil
import signal
from dataclasses import dataclass, field

import pytest

from dlrm.config import load_config
from dlrm.config.study import StudyConfig
from dlrm.errors import DIVERGED, ConfigError
from dlrm.jobs.processes import Ended
from dlrm.run.files import marker_text
from dlrm.scaling.report import looks, parts
from dlrm.studies import job
from dlrm.studies.job import StudyIncomplete

TEXT = """
name: small
options: {model: {embedding_dim: 8, bottom_mlp: [16, 8]}}
arms:
  dot: {}
  cat: {options: {model.interaction.kind: cat}}
search: {kind: grid, space: {optim.dense.lr: [0.1, 0.2]}}
final_seeds: 2
"""


def auc_of(config):
    """Validation: a higher rate is better in dot, a lower one in cat. Test: the other way round, as a trap."""
    better = (config.optim.dense.lr == 0.2) == (config.model.interaction.kind == "dot")
    return (0.8 if better else 0.7) + 1e-4 * config.run.seed, (0.6 if better else 0.9) + 1e-4 * config.run.seed


@dataclass
class Cluster:
    """Stands for a starter and its jobs.

    Attributes:
        ends: what becomes of some runs, by name; signals_at: runs during which a signal comes.
        started: names, in order; configs: what each was given.
    """

    ends: dict = field(default_factory=dict)
    signals_at: dict = field(default_factory=dict)
    started: list = field(default_factory=list)
    configs: dict = field(default_factory=dict)
    under_way: set = field(default_factory=set)
    most_at_once: int = 0

    def __call__(self, config, timeout_s, command):
        assert command == "study"
        return self

    def find(self, spec):
        return None

    def start(self, spec):
        self.started.append(spec.name)
        self.under_way.add(spec.name)
        self.most_at_once = max(self.most_at_once, len(self.under_way))
        self.configs[spec.name] = spec.own
        return Job(self, spec)


@dataclass
class Job:
    cluster: Cluster
    spec: object
    process: int = 2**22 + 1  # beyond what Linux gives
    duration_s: float = 3.0

    def poll(self):
        name = self.spec.name
        if number := self.cluster.signals_at.pop(name, 0):
            os.kill(os.getpid(), number)
            return None
        self.cluster.under_way.discard(name)
        ended = self.cluster.ends.get(name, Ended())
        if not ended.reason:
            write_run(self.spec)
        return ended

    def ask_to_stop(self):
        """As a job is asked."""

    def stop(self):
        self.cluster.under_way.discard(self.spec.name)
        return True


def write_run(spec):
    folder, config = spec.run_folder, spec.own
    folder.mkdir(parents=True, exist_ok=True)
    validation, test = auc_of(config)
    (folder / "run.json").write_text(marker_text())
    (folder / "config.yaml").write_text(spec.config_text)
    summary = {
        "stopped": "all epochs trained", "samples_per_s": 100.0, "model_bytes": 4000, "training_time_s": 1.0,
        "validation": {"auc": validation}, "test": {"auc": test} if config.evaluation.test else None,
    }  # fmt: skip
    (folder / "summary.json").write_text(json.dumps(summary))
    entries = [{"kind": "validation", "step": step, "auc": validation - 1 / step} for step in (10, 20)]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(entry) + "\n" for entry in entries))


@pytest.fixture(scope="module")
def empty():
    return looks.pictures_of(lambda width_in: looks.figure(width_in, 1.0)[0])


@pytest.fixture
def study(tmp_path, monkeypatch, empty):
    """Runs a study whose runs are made up."""
    for name in ("RANK", "TORCHELASTIC_RUN_ID"):
        monkeypatch.delenv(name, raising=False)

    def run(cluster, text=TEXT, drawn=False, **options):
        monkeypatch.setattr(job, "Starter", cluster)
        # Pictures would take most of the time.
        monkeypatch.setattr(parts, "pictures_of", lambda draw: (draw(looks.WIDE_IN) if drawn else True) and empty)
        (tmp_path / "study.yaml").write_text(text)
        config = {"study": str(tmp_path / "study.yaml"), "output": str(tmp_path / "out"), "poll_s": 1e-4}
        job.run_study(StudyConfig(**{**config, **options}))
        return cluster

    return run


@pytest.fixture
def table(tmp_path):
    def read():
        with (tmp_path / "out" / "table.csv").open(newline="") as file:
            return list(csv.DictReader(file))

    return read


def page(tmp_path):
    return (tmp_path / "out" / "report.html").read_text()


def choices(tmp_path):
    return json.loads((tmp_path / "out" / "choices.json").read_text())["arms"]


def test_validation_samples_choose_and_test_samples_are_scored_by_the_chosen_with_fresh_seeds(study, table, tmp_path):
    cluster = study(Cluster(), TEXT + "selection_seeds: 2\n", drawn=True)
    searched = [name for name in cluster.started if "trial" in name]
    final = [name for name in cluster.started if "final" in name]
    assert len(searched) == 2 * 2 * 2
    assert len(final) == 2 * 2
    assert cluster.started[:4] == [f"{arm}, trial 0, seed {seed}" for seed in (0, 1) for arm in ("dot", "cat")]
    given = tmp_path / "out/arms/dot/trials/0/seed_1/config.yaml"
    assert load_config(given) == cluster.configs["dot, trial 0, seed 1"]
    assert not any(cluster.configs[name].evaluation.test for name in searched)
    assert all(cluster.configs[name].evaluation.test for name in final)
    assert {cluster.configs[name].run.seed for name in searched} == {0, 1}
    assert {cluster.configs[name].run.seed for name in final} == {100, 101}
    assert {name: cluster.configs[f"{name}, final, seed 100"].optim.dense.lr for name in ("dot", "cat")} == {
        "dot": 0.2, "cat": 0.1
    }  # fmt: skip
    assert {arm: found["validation"] for arm, found in choices(tmp_path).items()} == {
        "dot": pytest.approx(0.80005), "cat": pytest.approx(0.80005)
    }  # fmt: skip
    rows = table()
    assert {row["purpose"] for row in rows if row["split"] == "test"} == {"final"}
    mine = [row for row in rows if (row["arm"], row["split"], row["quantity"]) == ("dot", "test", "auc")]
    assert [(int(row["seed"]), float(row["value"])) for row in mine] == [
        (seed, pytest.approx(0.6 + 1e-4 * seed)) for seed in (100, 101)
    ]
    assert "They scored no test samples" in page(tmp_path)


def test_started_again_only_what_is_not_done_is_run(study, table):
    killed = {"cat, final, seed 101": Ended("rank 0 was killed by SIGKILL (out of memory?)")}
    with pytest.raises(StudyIncomplete, match=r"1 run failed or did not run \(cat, final, seed 101\)"):
        study(Cluster(killed))
    assert [row["reason"] for row in table() if row["status"] == "failed"] == [killed["cat, final, seed 101"].reason]
    assert study(Cluster()).started == ["cat, final, seed 101"]
    assert study(Cluster()).started == []
    assert {row["status"] for row in table()} == {"done"}


def test_an_arm_whose_trials_are_not_settled_scores_no_test_samples_yet(study, table):
    with pytest.raises(StudyIncomplete, match="cat, trial 1, seed 0"):
        study(first := Cluster({"cat, trial 1, seed 0": Ended("took longer than timeout_s")}))
    assert not any(name.startswith("cat, final") for name in first.started)
    assert any(name.startswith("dot, final") for name in first.started)
    again = study(Cluster())
    assert sorted(again.started) == [
        "cat, final, seed 100", "cat, final, seed 101", "cat, trial 1, seed 0",
    ]  # fmt: skip


def test_a_trial_that_diverges_is_out_and_is_not_tried_again(study, tmp_path):
    diverged = Ended(f"step 7: the training loss is nan: {DIVERGED}; lower the learning rates", final=True)
    text = TEXT + "selection_seeds: 2\n"
    first = study(Cluster({"dot, trial 1, seed 0": diverged, "cat, final, seed 100": diverged}), text)
    assert "dot, trial 1, seed 1" not in first.started
    assert choices(tmp_path)["dot"]["trial"] == 0
    assert "cat has no figures of seed 100, which failed" in page(tmp_path)
    assert study(Cluster(), text).started == []


def test_what_is_given_up_does_not_hold_up_the_rest(study):
    with pytest.raises(StudyIncomplete):
        study(Cluster({"cat, trial 1, seed 0": Ended("took longer than timeout_s")}))
    assert [name for name in study(Cluster(), retry=False).started if "trial" in name] == []


@pytest.mark.parametrize(("number", "error"), [(signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, Exception)])
def test_a_signal_stops_the_run_and_leaves_the_table_of_what_is_there(study, table, number, error):
    cluster = Cluster(signals_at={"dot, trial 1, seed 0": number})
    with pytest.raises(error) as caught:
        study(cluster)
    assert number == signal.SIGINT or str(caught.value) == "stopped by SIGTERM; started again, study goes on"
    assert cluster.under_way == set()
    done = {(row["arm"], row["trial"], row["seed"]) for row in table() if row["status"] == "done"}
    assert done == {("dot", "0", "0"), ("cat", "0", "0")}
    assert study(Cluster()).started[0] == "dot, trial 1, seed 0"


def test_a_run_of_another_configuration_is_run_again_and_a_changed_choice_is_told(study, tmp_path, capsys):
    study(Cluster())
    capsys.readouterr()
    changed = TEXT.replace("[0.1, 0.2]", "[0.1]")
    again = study(Cluster(), changed)
    assert [name for name in again.started if name.startswith("dot")] == [
        f"dot, final, seed {seed}" for seed in (100, 101)
    ]
    assert "dot, final, seed 100: its result is of another configuration" in capsys.readouterr().out
    assert "The choice of dot was another 1 time before" in page(tmp_path)
    assert len(choices(tmp_path)["cat"]["earlier"]) == 0


def test_runs_side_by_side_share_the_cores_and_what_is_found_is_the_same(study, tmp_path, monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: range(8))
    cluster = study(Cluster(), at_once=4)
    assert cluster.most_at_once == 4
    assert len(cluster.started) == 8
    assert study(Cluster(), at_once=1).started == []


def test_without_a_search_arms_are_run_as_they_are(study, table):
    plain = TEXT.replace("search: {kind: grid, space: {optim.dense.lr: [0.1, 0.2]}}\n", "")
    assert study(Cluster(), plain).started == [
        f"{arm}, final, seed {seed}" for seed in (100, 101) for arm in ("dot", "cat")
    ]


def test_a_budget_ends_a_search_and_what_was_tried_is_chosen_from(study, table):
    cluster = study(Cluster(), TEXT + "budget_minutes: 0.04\n")  # a run takes 3 s
    assert [name for name in cluster.started if "trial 1" in name] == []
    reasons = {row["reason"] for row in table() if (row["purpose"], row["trial"]) == ("search", "1")}
    assert reasons == {"not tried: budget_minutes is used up"}
    assert sum("final" in name for name in cluster.started) == 4


def test_a_search_only_scores_no_test_samples(study, table):
    assert not any("final" in name for name in study(Cluster(), search_only=True).started)
    assert {row["purpose"] for row in table() if row["value"]} == {"search"}


def test_an_arm_alone_can_be_run_and_the_others_are_still_shown(study, table, tmp_path):
    study(Cluster())
    shutil.rmtree(tmp_path / "out" / "arms" / "cat")
    again = study(Cluster(), only=("cat",))
    assert {name.partition(",")[0] for name in again.started} == {"cat"}
    assert {row["arm"] for row in table() if row["split"] == "test"} == {"dot", "cat"}
    with pytest.raises(ConfigError, match="only: dott is no arm of small; did you mean dot"):
        study(Cluster(), only=("dott",))


def test_an_ensemble_has_members_with_seeds_of_their_own_and_shares_those_of_the_arm_it_is_of(
    study, table, monkeypatch
):
    averaged = []

    def figures(self, members):
        averaged.append([member.seed for member in members])
        return {("test", "auc"): 0.9 + 1e-4 * members[0].seed, ("validation", "auc"): 0.9}

    monkeypatch.setattr("dlrm.studies.ensemble.Ensembles.figures", figures)
    text = TEXT.replace("  cat: {options: {model.interaction.kind: cat}}", "  three: {of: dot, ensemble: 3}")
    cluster = study(Cluster(), text)
    final = sorted(cluster.configs[name].run.seed for name in cluster.started if "final" in name)
    assert final == [100, 101, 10100, 10101, 20100, 20101]
    assert all(cluster.configs[name].evaluation.scores for name in cluster.started if "final" in name)
    assert averaged[-2:] == [[seed, seed + 10_000, seed + 20_000] for seed in (100, 101)]
    rows = {(row["arm"], row["seed"]): float(row["value"]) for row in table() if row["split"] == "test"}
    assert rows["dot", "100"] == pytest.approx(0.61)
    assert rows["three", "100"] == pytest.approx(0.91)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (("[0.1, 0.2]", "[0.1, -1]"), r"arm dot with optim.dense.lr -1: optim.dense.lr: is -1, must be greater than 0"),
        (("optim.dense.lr", "optim.dense.rate"), r"optim.dense.rate: unknown option"),
        (("options: {model:", "options: {run.seed: 3, model:"), r"options: run.seed: is set by study"),
        (("optim.dense.lr: [", "evaluation.test: ["), r"evaluation.test: is set by study: test samples are scored"),
        (("final_seeds: 2", "final_seeds: [0, 7]"), r"final_seeds has 0, with which trials are chosen"),
        (("dot: {}", "dot: {of: cot}"), r"arms.dot.of is cot, which is no arm"),
        (("dot: {}", "dot: {against: dot}"), r"arms.dot.against is dot, which is no other arm"),
        (("[0.1, 0.2]", "{kind: float, low: 0.1, high: 0.2}"), r"is a range, and a grid needs values"),
        (("[0.1, 0.2]", "[0.1, 0.1]"), r"search.space.optim.dense.lr: has 0.1 twice"),
    ],
)
def test_every_mistake_is_found_before_the_first_run(study, tmp_path, change, said):
    cluster = Cluster()
    assert change[0] in TEXT
    with pytest.raises(ConfigError, match=said):
        study(cluster, TEXT.replace(*change))
    assert cluster.started == []
    assert not (tmp_path / "out").exists()


def test_a_dry_run_shows_the_arms_and_makes_nothing(study, capsys, tmp_path):
    assert study(Cluster(), dry_run=True).started == []
    shown = capsys.readouterr().out
    assert "small: 2 arms" in shown
    assert "grid of 2 over optim.dense.lr" in shown
    assert not (tmp_path / "out").exists()
