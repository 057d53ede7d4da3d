"""Causes that a run's figures show: records as a run writes them, with one thing wrong."""

import json

import pytest
import torch

from dlrm.diagnose.after_run import RunRecords, judge_run, read_records
from dlrm.errors import DataError
from dlrm.metrics.binary import BinaryMetrics


def scored(step, logits_M, labels_M, kind="validation", *, weights_M=None, **more):
    """An evaluation's record, by the trainer's own metrics."""
    metrics = BinaryMetrics(torch.device("cpu"), buffer_samples=len(logits_M), weighted=weights_M is not None)
    metrics.update(logits_M, labels_M, torch.ones(len(logits_M)) if weights_M is None else weights_M)
    return {"kind": kind, "step": step, **more, **metrics.compute().to_dict()}


def labels_and_logits(samples=20_000, strength=1.0, rate_logit=-1.0):
    generator = torch.Generator().manual_seed(0)
    logits_M = rate_logit + strength * torch.randn(samples, generator=generator)
    return (torch.rand(samples, generator=generator) < logits_M.sigmoid()).float(), logits_M


def losses(*values, every=100, **more):
    return [{"kind": "train", "step": (i + 1) * every, "loss": loss, **more} for i, loss in enumerate(values)]


def causes(entries, error="", warmup_steps=0):
    return {
        finding.cause: str(finding)
        for finding in judge_run(RunRecords("run", entries, error), warmup_steps=warmup_steps)
    }


def test_nothing_is_found_in_a_run_that_learns():
    labels_M, logits_M = labels_and_logits()
    entries = [*losses(0.6, 0.55, 0.52, 0.5), scored(200, 0.8 * logits_M, labels_M), scored(400, logits_M, labels_M)]
    assert causes([*entries, scored(400, logits_M, labels_M, "test")]) == {}


def test_rates_that_explode_are_found_after_the_warm_up():
    labels_M, logits_M = labels_and_logits()
    entries = [
        *losses(0.6, 2.0, 3.0),
        scored(200, 10 * logits_M + 5, labels_M),
        scored(300, 10 * logits_M + 5, labels_M),
    ]
    found = causes(entries)
    assert found.keys() == {"exploded"}
    assert "lower the learning rates" in found["exploded"]
    assert causes(entries, warmup_steps=300) == {}


def test_a_run_that_ended_because_it_diverged_says_so():
    labels_M, logits_M = labels_and_logits()
    error = "step 20: the training loss is nan: training has diverged; lower the learning rates"
    assert causes([*losses(0.6), scored(100, logits_M, labels_M)], error).keys() == {"diverged"}


def test_a_ranking_that_is_the_wrong_way_round_is_found():
    labels_M, logits_M = labels_and_logits()
    found = causes([*losses(0.6, 0.5), scored(90, logits_M, 1 - labels_M)])
    assert found.keys() == {"below_chance"}


def test_one_score_for_all_is_found():
    labels_M, _ = labels_and_logits()
    found = causes([*losses(0.6, 0.6), scored(90, torch.full((20_000,), -1.0), labels_M)])
    assert found.keys() == {"constant_predictions"}


def test_a_loss_that_stays_where_it_is_and_scores_of_chance_are_found():
    labels_M, logits_M = labels_and_logits(strength=0.0)
    noise_M = logits_M + 1e-3 * torch.randn(20_000, generator=torch.Generator().manual_seed(1))
    found = causes([*losses(0.583, 0.582, 0.5825), scored(300, noise_M, labels_M)])
    assert found.keys() == {"nothing_learnt", "flat_loss"}


def test_a_loss_that_stays_where_it_is_is_found_by_the_click_rate_that_the_weights_make():
    labels_M, _ = labels_and_logits(strength=0.0)
    noise_M = 1e-3 * torch.randn(20_000, generator=torch.Generator().manual_seed(1))
    weights_M = torch.where(labels_M > 0, (20_000 - labels_M.sum()) / labels_M.sum(), 1.0)  # a click rate of one half
    found = causes([*losses(0.693, 0.6935, 0.693), scored(300, noise_M, labels_M, weights_M=weights_M)])
    assert "flat_loss" in found


def test_a_validation_loss_that_rises_while_the_training_loss_falls_is_found():
    labels_M, logits_M = labels_and_logits()
    entries = [*losses(0.55, 0.52), scored(200, logits_M, labels_M), *losses(0.5, 0.4)]
    entries[-2]["step"], entries[-1]["step"] = 300, 400
    entries.append(scored(400, 2.5 * logits_M, labels_M))
    assert causes(entries).keys() == {"overfitting"}
    entries[-2]["loss"] = entries[-3]["loss"] = 0.9  # it rises in both: that is something else
    assert "overfitting" not in causes(entries)


def test_scores_that_are_too_good_are_found():
    labels_M, _ = labels_and_logits()
    assert causes([scored(90, 8 * labels_M - 4, labels_M)]).keys() == {"too_good"}


def test_each_task_is_judged_by_itself():
    labels_M, logits_M = labels_and_logits()
    click, like = {"task": "click"}, {"task": "like"}
    entries = [scored(90, logits_M, labels_M, **click), scored(90, logits_M, 1 - labels_M, **like)]
    found = causes(entries)
    assert found.keys() == {"below_chance"}
    assert "of task like" in found["below_chance"]


def test_records_are_read_as_far_as_they_are_whole(tmp_path):
    with pytest.raises(DataError, match=r"metrics\.jsonl: cannot be read"):
        read_records(str(tmp_path))
    (tmp_path / "metrics.jsonl").write_text(json.dumps(losses(0.5)[0]) + '\n{"kind": "tra')
    assert read_records(str(tmp_path)).entries == losses(0.5)
