"""The page of a study: what it says of how figures were made, its tables, its figures."""

import re
from dataclasses import replace

import pytest

from dlrm.config.study import Study
from dlrm.scaling.report import looks, parts
from dlrm.studies.baselines import Baseline
from dlrm.studies.choice import Trial
from dlrm.studies.course import Status
from dlrm.studies.outcome import ArmOutcome, Outcome
from dlrm.studies.report.curves import curve_of
from dlrm.studies.report.write import write_report

EVIL = '<script>alert("1")</script>'
SPACE = {"optim.dense.lr": [0.1, 0.2]}


def arm(name, values, **more):
    seeds = dict(enumerate(values, start=100))
    figures = {("test", "auc"): seeds, ("validation", "auc"): seeds, ("", "model_bytes"): dict.fromkeys(seeds, 2.0**20)}
    statuses = {seed: Status("done") for seed in seeds}
    return ArmOutcome(
        name, more.pop("owner", name), more.pop("ensemble", 1), figures=figures, statuses=statuses, **more
    )


@pytest.fixture
def outcome():
    study = Study(
        name="s", description=EVIL, arms={"first": {}, "second": {}, "mean": {"of": "second", "ensemble": 4}},
        search={"kind": "grid", "space": SPACE}, final_seeds=3, noise=0.004,
    )  # fmt: skip
    trials = [Trial(n, {"optim.dense.lr": rate}, {}, {0: 0.7 + n / 100}) for n, rate in enumerate((0.1, 0.2))]
    first = arm("first", (0.70, 0.71, 0.72), trials=trials, chosen=trials[1])
    second = arm(
        "second", (0.703, 0.712, 0.723), trials=[Trial(0, {"optim.dense.lr": 0.1}, {}, {}, {0: f"killed {EVIL}"})]
    )
    mean = arm("mean", (0.76, 0.77), owner="second", ensemble=4)
    mean.statuses[102] = Status("failed", "seed 10102: diverged")
    return Outcome(study, [first, second, mean], [])


@pytest.fixture
def page(outcome, tmp_path, monkeypatch):
    empty = looks.pictures_of(lambda width_in: looks.figure(width_in, 1.0)[0])
    monkeypatch.setattr(parts, "pictures_of", lambda draw: draw(looks.NARROW_IN) and empty)
    entries = {
        "first": {
            seed: [{"kind": "validation", "step": s, "auc": 0.5 + s / 100} for s in (1, 2)] for seed in (100, 101)
        }
    }
    baselines = [
        Baseline("LightGBM", "tuned", {0: {("test", "auc"): 0.74}, 1: {("test", "auc"): 0.76}}, same_data=False)
    ]
    return write_report(outcome, entries, baselines, tmp_path, changed={"first": 1, "second": 0}).read_text()


def rows(page):
    found = re.findall(r"<tr>(.*?)</tr>", page, flags=re.DOTALL)
    return [
        [" ".join(re.sub(r"<[^>]*>", "", cell).split()) for cell in re.split(r"</t[hd]>", row)][:-1] for row in found
    ]


def test_the_table_has_means_with_errors_differences_of_pairs_and_baselines(page):
    head, first, second, mean, baseline, *trials = rows(page)
    column = {name: number for number, name in enumerate(head)}
    assert first[column["test AUC"]] == "0.71000 ± 0.00577"
    assert second[column["difference from first"]] == "+0.00267 ± 0.00033"
    assert second[column["verdict"]] == "noise (below 0.00400)"
    assert (mean[0], mean[column["seeds"]], mean[column["verdict"]]) == ("mean 4 models averaged", "2/3", "better")
    assert (baseline[0], baseline[column["test AUC"]]) == ("LightGBM baseline", "0.75000 ± 0.01000")
    assert (first[column["chosen"]], first[column["model"]]) == ("optim.dense.lr 0.2", "1.0 MiB")
    assert [row[-1] for row in trials if row[0] == "first"] == ["done", "chosen"]


def test_an_arm_may_be_compared_with_another_than_the_first(outcome, tmp_path):
    arms = {"first": {}, "second": {}, "mean": {"of": "second", "ensemble": 4, "against": "second"}}
    own = replace(outcome, study=Study(name="s", arms=arms, final_seeds=3))
    head, _, second, mean, *_ = rows(write_report(own, {}, [], tmp_path).read_text())
    column = head.index("difference")
    assert second[column] == "+0.00267 ± 0.00033 from first"
    assert mean[column] == "+0.05750 ± 0.00050 from second"  # seeds 100 and 101: 0.057 and 0.058


def test_the_page_says_how_its_figures_were_made_and_escapes_what_others_wrote(page):
    for said in (
        "Trials were chosen by the mean validation AUC over seed 0. They scored no test samples",
        "trained anew with 3 seeds (100, 101, 102), the same in all arms",
        "not larger than 2 standard errors of the paired differences, or than 0.004",
        "mean averages the probabilities of 4 models",
        "mean has no figures of seed 102, which failed",
        "The choice of first was another 1 time before",
        "LightGBM (baseline): tuned. Its file names other data",
    ):
        assert said in page
    assert EVIL not in page
    assert page.count("<script>") == 1
    sections = re.findall(r'<section id="(\w+)">', page)
    assert sections == [
        "arms", "curves", "differences", "search", "model_bytes", "samples_per_s", "exchanged_bytes", "trials"
    ]  # fmt: skip
    assert "runs of one rank exchange nothing" in page


def test_a_curve_has_the_steps_that_all_runs_have():
    runs = [
        [{"kind": "validation", "step": 1, "auc": 0.5}, {"kind": "validation", "step": 2, "auc": 0.6}],
        [{"kind": "validation", "step": 2, "auc": 0.7}, {"kind": "train", "step": 1, "auc": 0.1}],
    ]
    assert curve_of(runs, "validation", "auc") == {2: [0.6, 0.7]}
    assert curve_of([], "validation", "auc") == {}
