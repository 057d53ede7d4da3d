"""A job is a process here: how its end is told, what ends it, and what is left for the next start."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from dlrm.config import dump_config
from dlrm.config.benchmark import BenchmarkConfig
from dlrm.config.experiment import ScaleConfig
from dlrm.jobs.processes import ROOT, Ended, Job, Starter, await_gone
from dlrm.jobs.spec import Record
from dlrm.scaling.benchmark.file_format import FORMAT, VERSION
from dlrm.scaling.experiments.matrix import Point
from dlrm.scaling.experiments.repeats import Repeat


@pytest.fixture
def repeat(tmp_path):
    found = Repeat(Point("1x2.a", 1, 2, {}, BenchmarkConfig()), 0, tmp_path / "points" / "1x2.a" / "repeat_0")
    found.prepare()
    return found


def ended(job):
    while (found := job.poll()) is None:
        time.sleep(0.01)
    return found


def python(text):
    return [sys.executable, "-c", text]


def write_result(repeat, **changes):
    found = {"format": FORMAT, "version": VERSION, "hosts": 1, "ranks": 2, **changes}
    (repeat.folder / "benchmark.json").write_text(json.dumps(found))
    (repeat.folder / "benchmark.yaml").write_text(dump_config(repeat.point.config))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("print('first'); print('it is broken\\n'); raise SystemExit(1)", Ended("it is broken")),
        ("print('mend this'); raise SystemExit(2)", Ended("mend this", final=True)),
        ("raise SystemExit(3)", Ended("exit code 3")),
        ("import os; os.kill(os.getpid(), 9)", Ended("its launcher was killed by SIGKILL")),
        ("raise SystemExit(124)", Ended("took longer than timeout_s")),
        ("pass", Ended("ended well and left no benchmark.json of 2 rank(s)")),
    ],
)
def test_why_a_job_has_failed_is_one_line(repeat, text, expected):
    assert ended(Job(repeat, python(text), timeout_s=60.0)) == expected


def test_what_its_launcher_says_goes_before_what_it_has_printed_and_names_the_exit_code(repeat):
    said = {"message": {"message": "data.path: there is no\nsuch folder", "errorCode": 2, "extraInfo": {}}}
    write = f"import os; open(os.environ['TORCHELASTIC_ERROR_FILE'] + '.n1', 'w').write({json.dumps(said)!r})"
    found = ended(Job(repeat, python(f"{write}; print('noise'); raise SystemExit(1)"), timeout_s=60.0))
    assert found == Ended("data.path: there is no; such folder", final=True)


def test_a_job_that_takes_too_long_is_ended(repeat):
    job = Job(repeat, python("import time; time.sleep(600)"), timeout_s=0.1)
    assert ended(job) == Ended("took longer than timeout_s")
    assert not psutil.pid_exists(job.process)


def test_a_job_is_stopped_even_if_it_does_not_listen(repeat, monkeypatch):
    monkeypatch.setattr("dlrm.jobs.processes._CANCEL_S", 0.2)
    deaf = (
        "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up', flush=True); time.sleep(600)"
    )
    job = Job(repeat, python(deaf), timeout_s=None)
    while "up" not in repeat.output.read_text():
        time.sleep(0.01)
    job.stop()
    assert not psutil.pid_exists(job.process)


def test_a_job_gets_nothing_of_a_launcher_above_it(repeat, monkeypatch):
    for name in ("RANK", "WORLD_SIZE", "TORCHELASTIC_RUN_ID", "PET_NNODES", "DLRM_MAKE"):
        monkeypatch.setenv(name, "7")
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    ended(Job(repeat, python("import os, json; print(json.dumps(dict(os.environ)))"), timeout_s=60.0))
    found = json.loads(repeat.output.read_text())
    assert not {"RANK", "WORLD_SIZE", "TORCHELASTIC_RUN_ID", "PET_NNODES", "DLRM_MAKE"} & found.keys()
    assert (found["OMP_NUM_THREADS"], found["DLRM_CLIENT"]) == ("3", str(os.getpid()))


def test_a_job_here_is_a_launcher_and_one_elsewhere_goes_through_the_component(repeat, monkeypatch):
    started = []
    monkeypatch.setattr("dlrm.jobs.processes.Job", lambda spec, words, timeout_s: started.append((words, timeout_s)))
    monkeypatch.chdir(ROOT)
    Starter(ScaleConfig(experiment="x"), 60.0).start(repeat)
    options = {"scheduler": "slurm", "scheduler_args": "partition=a,time=9", "component_args": "--cpu 2 --image 'a b'"}
    there = Starter(ScaleConfig(experiment="x", **options), 60.0)
    there.start(repeat)
    assert there.find(repeat) is None
    repeat.handle.write_text("slurm://torchx/7\n")
    there.find(repeat)
    (here, here_s), (sent, sent_s), (again, _) = started
    folder, config = repeat.folder, repeat.folder.parent / "config.yaml"
    assert here[1:] == [
        str(ROOT / "launch/elastic.py"), "--standalone", "--local-addr", "localhost", "--nproc-per-node", "2",
        "--max-restarts", "0", str(ROOT / "dlrm_main.py"), "benchmark", "--config", str(config), f"--output={folder}",
    ]  # fmt: skip
    client = [sys.executable, str(ROOT / "launch/submit.py"), "--handle", str(folder / "handle"), "--timeout-s", "60.0"]
    assert sent == [
        *client, "--", "-s", "slurm", "-cfg", "partition=a,time=9", "components/dlrm.py:benchmark", "-j", "1x2",
        "--config", str(config), "--error_file", str(folder / "error.json"), "--cpu", "2", "--image", "a b",
        "--", f"--output={folder}",
    ]  # fmt: skip
    assert (again, here_s, sent_s) == ([*client, "--attach"], 60.0, None)


def test_the_state_of_a_repeat_follows_from_its_files(repeat):
    assert repeat.state() == "missing"
    repeat.write(Record("running", "local", process=1))
    assert repeat.state() == "running"
    write_result(repeat)
    assert repeat.state() == "done"  # its end was seen by nobody, and all is there
    repeat.write(Record("failed", "local", reason="killed"))
    assert repeat.state() == "failed"
    repeat.write(Record("done", "local"))
    assert repeat.state() == "done"
    for other in ({"ranks": 4}, {"hosts": 2}, {"version": VERSION - 1}, {"format": "else"}):
        write_result(repeat, **other)
        assert repeat.state() == "missing"
    write_result(repeat)
    (repeat.folder / "benchmark.yaml").write_text(dump_config(BenchmarkConfig(steps=7)))
    assert repeat.state() == "changed"
    (repeat.folder / "benchmark.yaml").write_text("steps: [")
    assert repeat.state() == "changed"
    repeat.forget()
    repeat.prepare()
    assert repeat.state() == "missing"
    assert [path.name for path in repeat.folder.iterdir()] == ["benchmark.yaml"]


def test_a_process_that_an_earlier_start_has_left_is_ended_and_no_other(tmp_path, monkeypatch):
    monkeypatch.setattr("dlrm.jobs.processes._PATIENCE_S", 0.2)
    sleep = "import time; time.sleep(600)"
    mine = subprocess.Popen([*python(sleep), f"--output={tmp_path}"])
    other = subprocess.Popen([*python(sleep), "--output=/else"])
    try:
        await_gone(mine.pid, tmp_path)
        await_gone(other.pid, tmp_path)
        await_gone(2**22 + 1, tmp_path)  # beyond what Linux gives
        assert not psutil.pid_exists(mine.pid)
        assert other.poll() is None
    finally:
        for process in (mine, other):
            process.kill()
            process.wait()


def test_this_is_a_checkout():
    assert (ROOT / "launch" / "elastic.py").samefile(Path(__file__).parents[3] / "launch" / "elastic.py")
