"""Sinks get every number and never hold up or end a run; MLflow's is asked through its own client."""

import builtins
import threading

import pytest

from dlrm.config import Config
from dlrm.config.run import LoggingConfig
from dlrm.errors import SetupError
from dlrm.run.recorder import RunRecorder
from dlrm.run.sinks.base import Background
from dlrm.run.sinks.build import open_sinks, require_sinks


class Kept:
    def __init__(self, fails_at=None):
        self.entries, self.closed, self.fails_at = [], False, fails_at

    def record(self, kind, step, numbers):
        if step == self.fails_at:
            raise ConnectionError("no route to host")
        self.entries.append((kind, step, numbers))

    def close(self):
        self.closed = True


def test_every_number_goes_to_the_sink_and_nothing_else_does(tmp_path):
    kept, said = Kept(), []
    recorder = RunRecorder(tmp_path, tensorboard=False, sinks=[Background("x", lambda: kept, said.append)])
    recorder.record("train", 10, {"loss": 0.5, "note": "text", "done": True, "auc": None})
    recorder.record("validation", 10, {"task": "click", "auc": 0.75})
    recorder.close()
    assert kept.entries == [("train", 10, {"loss": 0.5}), ("validation/click", 10, {"auc": 0.75})]
    assert (kept.closed, said) == (True, [])


def test_a_sink_that_fails_is_told_of_once_and_the_run_goes_on(tmp_path):
    kept, said = Kept(fails_at=2), []
    sink = Background("x", lambda: kept, said.append)
    for step in range(5):
        sink.record("train", step, {"loss": 0.5})
    sink.close()
    assert [step for _, step, _ in kept.entries] == [0, 1]
    assert said == [
        "warning: logging.sinks: x: ConnectionError: no route to host; no more entries go there, the run goes on"
    ]


def test_a_sink_that_does_not_answer_is_not_waited_for(monkeypatch):
    monkeypatch.setattr("dlrm.run.sinks.base._MOST_WAITING", 3)
    hangs, said = threading.Event(), []
    sink = Background("x", hangs.wait, said.append, patience_s=0.01)
    for step in range(9):
        sink.record("train", step, {"loss": 0.5})
    sink.close()
    other = Background("y", hangs.wait, said.append, patience_s=0.01)
    other.close()
    hangs.set()
    assert [line.split(": ")[2] for line in said] == ["x", "y"]
    assert "does not keep up" in said[0]
    assert "has not taken all entries within" in said[1]


def test_a_sink_whose_package_is_missing_is_one_line_before_training(monkeypatch):
    really = builtins.__import__

    def without(name, *rest, **named):
        if name.startswith("mlflow"):
            raise ModuleNotFoundError(f"No module named '{name}'")
        return really(name, *rest, **named)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(SetupError, match=r"mlflow, which cannot be imported .*pip install -r requirements/mlflow.txt"):
        require_sinks(LoggingConfig(sinks="mlflow"))
    require_sinks(LoggingConfig())


@pytest.mark.slow  # MLflow makes its database
def test_mlflow_has_the_figures_and_the_options_and_goes_on_where_a_run_does(tmp_path):
    mlflow = pytest.importorskip("mlflow", reason="requirements/mlflow.txt is not installed")
    from mlflow.tracking import MlflowClient

    folder, said = tmp_path / "run", []
    folder.mkdir()
    config = Config(logging={"sinks": ["mlflow"], "mlflow": {"uri": f"sqlite:///{tmp_path}/m.db", "experiment": "e"}})
    for steps in ((1, 2), (3,)):  # the second time it is resumed
        (sink,) = open_sinks(config, folder, said.append)
        for step in steps:
            sink.record("validation", step, {"auc": 0.7 + step / 100})
        sink._patience_s = 120.0
        sink.close()
    assert said == []
    client = MlflowClient(tracking_uri=f"sqlite:///{tmp_path}/m.db")
    (run,) = client.search_runs([client.get_experiment_by_name("e").experiment_id])
    assert (run.info.status, run.data.params["optim.dense.lr"]) == ("FINISHED", "0.02")
    history = client.get_metric_history(run.info.run_id, "validation/auc")
    assert [(one.step, one.value) for one in history] == [(1, 0.71), (2, 0.72), (3, 0.73)]
    assert mlflow.__version__
