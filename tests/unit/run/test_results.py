"""Results of tasks of any name, in the closing table and the report."""

from dlrm.metrics.binary import BinaryResult
from dlrm.run.console import Console
from dlrm.run.results import result_lines, summary_of, table_rows
from dlrm.run.summary import closing_table

NAMES = ("buy[usd]", "click[/b]")


def results(*aucs):
    figures = dict.fromkeys(BinaryResult.__dataclass_fields__)
    counts = {"samples": 10, "positives": 3}
    return {name: BinaryResult(**{**figures, **counts, "auc": auc}) for name, auc in zip(NAMES, aucs, strict=False)}


def test_names_of_tasks_are_shown_as_they_are(capsys):
    of_run = {"name": "a", "stopped": "b", "steps": 1, "samples": 2, "epochs": 1, "training_time_s": 1.0}
    of_run |= {
        "samples_per_s": 1.0,
        "ranks": 1,
        "resident_gib": 1.0,
        "device_gib": None,
        "expected_memory": {"host": 2**30, "device": 0},
        "folder": "f",
    }
    of_run |= {"worse_than_base_rate": None, "bad_values": {}}
    found = summary_of(validation=None, test=results(0.75, 0.5), best=None)
    Console(progress=False).show(closing_table({**of_run, **found}))
    text = capsys.readouterr().out
    for name in NAMES:
        assert f"test ({name})" in text


def test_one_task_is_named_nowhere_and_the_first_of_several_is_the_runs():
    assert [title for title, _ in table_rows(summary_of(validation=results(0.75), test=None, best=None))] == [
        "validation"
    ]
    assert result_lines(results(0.75)) == ["AUC 0.75000  log loss -  NE -"]
    summary = summary_of(validation=None, test=results(0.75, 0.5), best=results(0.8, 0.6))
    assert summary["test"]["auc"] == 0.75
    assert summary["best_reachable_auc"] == 0.8
    assert {task: found["best_reachable_auc"] for task, found in summary["tasks"].items()} == dict(
        zip(NAMES, (0.8, 0.6), strict=True)
    )
