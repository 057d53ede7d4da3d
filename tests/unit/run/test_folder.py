import json
import logging
import os
from importlib import metadata

import pytest
import torch

from dlrm.config import load_config
from dlrm.distributed.collectives import OneProcess
from dlrm.distributed.world import RankInfo, World
from dlrm.errors import ConfigError
from dlrm.run import folder as run_folder
from dlrm.run.files import remove_run
from dlrm.run.folder import open_run_folder
from dlrm.run.log import open_log

WORLD = World(rank_info=RankInfo(), device=torch.device("cpu"), backend="gloo", collectives=OneProcess())


def folder_of(tmp_path, *options):
    return run_of(tmp_path, *options).path


def run_of(tmp_path, *options):
    return open_run_folder(load_config(None, [f"run.dir={tmp_path}", "run.name=a", *options]), WORLD)


FRESH = [".lock", "config.yaml", "environment.json", "processes.jsonl", "run.json"]
"""What is in a run's folder when it was just begun."""


def fill(folder):
    """Everything that a run may leave behind."""
    checkpoint = "checkpoints/step_00000007"
    names = [
        "plan.txt",
        "metrics.jsonl",
        "metrics.jsonl.damaged-2",
        "curves.png",
        "summary.json",
        "report.html",
        "log/rank12.log",
        "heartbeat/rank12.json",
        "heartbeat/rank12.json.part",
        "heartbeat/rank12.ends.jsonl",
    ]
    names += ["tensorboard/events.out.tfevents.1795887304.host.1.0", f"{checkpoint}.tmp-{'0a' * 8}/owner.json"]
    names += [f"{checkpoint}.dead-{'0a' * 8}/rank_0000_1.safetensors", f"{checkpoint}.diverged-{'0a' * 8}/COMMITTED"]
    names += [f"{checkpoint}.damaged-{'0a' * 8}/COMMITTED"]
    names += [f"{checkpoint}/{name}" for name in ("COMMITTED", "manifest.json", "rank_0001.safetensors")]
    names += [f"{checkpoint}/{name}" for name in ("rank_0000.json", "rank_0000.failed", "rank_0000.json.unfinished")]
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("old")


def contents(folder):
    """All files below a folder, and what is in them; a lock is nothing that anybody misses."""
    return {path: path.read_text() for path in folder.rglob("*") if path.is_file() and path.name != ".lock"}


@pytest.fixture(autouse=True)
def locks_end_with_the_process():
    yield
    while run_folder._locks:
        run_folder._locks.pop().close()


def test_a_run_never_touches_an_earlier_one_of_its_name(tmp_path):
    first, second, third = (folder_of(tmp_path) for _ in range(3))
    assert [folder.name for folder in (first, second, third)] == ["a", "a-2", "a-3"]


def test_overwrite_replaces_a_run_with_all_that_it_has_left(tmp_path):
    first = folder_of(tmp_path)
    run_folder._locks.pop().close()
    fill(first)
    there = os.stat(first)
    again = folder_of(tmp_path, "run.overwrite=true")
    assert (again, sorted(path.name for path in again.iterdir())) == (first, FRESH)
    assert os.path.samestat(os.stat(again), there)  # a shell or a data set's path that leads here still does


@pytest.mark.parametrize("missing", [["run.json"], ["run.json", "processes.jsonl"], ["run.json", "environment.json"]])
def test_a_run_of_an_earlier_version_is_known_by_what_only_runs_write(tmp_path, missing):
    first = folder_of(tmp_path)
    run_folder._locks.pop().close()
    fill(first)
    for name in missing:
        (first / name).unlink()
    assert sorted(path.name for path in folder_of(tmp_path, "run.overwrite=true").iterdir()) == FRESH


@pytest.mark.parametrize(
    "foreign",
    [
        "thesis.tex",
        "config.yaml~",
        "src/model.py",
        "log/notes.txt",
        "tensorboard/other/events.out.tfevents.1",
        "checkpoints/export.safetensors",
        "checkpoints/step_00000007/notes.txt",
        "checkpoints/step_00000007.old/manifest.json",
        "checkpoints/best/manifest.json",
    ],
)
def test_overwrite_refuses_a_run_with_a_file_that_no_run_writes_and_removes_nothing(tmp_path, foreign):
    first = folder_of(tmp_path)
    run_folder._locks.pop().close()
    fill(first)
    (first / foreign).parent.mkdir(parents=True, exist_ok=True)
    (first / foreign).write_text("years")
    before = contents(tmp_path)
    with pytest.raises(ConfigError, match=r"^run\.overwrite: .* was not written by a run; nothing") as refused:
        folder_of(tmp_path, "run.overwrite=true")
    assert f"{first}/{foreign}".startswith(str(refused.value).split()[1])
    assert contents(tmp_path) == before


def test_overwrite_refuses_a_run_with_a_link_in_it(tmp_path):
    first = folder_of(tmp_path)
    run_folder._locks.pop().close()
    (tmp_path / "scratch").mkdir()
    (first / "checkpoints").symlink_to(tmp_path / "scratch")
    (tmp_path / "b").symlink_to(first)
    with pytest.raises(ConfigError, match=r"a/checkpoints was not written by a run"):
        folder_of(tmp_path, "run.overwrite=true")
    with pytest.raises(ConfigError, match=r"b is no folder of a run, but a file or a link"):
        folder_of(tmp_path, "run.overwrite=true", "run.name=b")


@pytest.mark.parametrize("name", ["config.yaml", "run.json", "environment.json", "checkpoints/step_00000001/x"])
def test_a_folder_of_somebody_else_is_neither_overwritten_nor_gone_on_with(tmp_path, name):
    path = tmp_path / "a" / name
    path.parent.mkdir(parents=True)
    path.write_text('{"db": 1}')
    before = contents(tmp_path)
    with pytest.raises(ConfigError, match=r"^run\.overwrite: .*/a is no run of this trainer"):
        folder_of(tmp_path, "run.overwrite=true")
    assert contents(tmp_path) == before
    assert folder_of(tmp_path, "resume.checkpoint=auto").name == "a-2"


def test_what_came_into_a_run_since_it_was_looked_at_stays(tmp_path):
    first = folder_of(tmp_path)
    fill(first)
    (first / "checkpoints" / "model.safetensors").touch()
    with pytest.raises(OSError, match="not empty"):
        remove_run(first)
    assert (first / "checkpoints" / "model.safetensors").exists()


def test_the_saved_configuration_is_the_configuration(tmp_path):
    config = load_config(None, [f"run.dir={tmp_path}", "optim.sparse={kind: sgd, lr: 3}", "data.rows=3,4"])
    folder = open_run_folder(config, WORLD).path
    assert load_config(folder / "config.yaml") == config


def test_the_environment_names_versions_and_hardware(tmp_path):
    environment = json.loads((folder_of(tmp_path) / "environment.json").read_text())
    assert environment["packages"]["torch"] == metadata.version("torch")  # torch's own may name its CUDA besides
    assert (environment["ranks"], environment["device"]) == (1, "cpu")


def test_a_folder_that_cannot_be_made_is_a_mistake_in_run_dir(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match=r"run\.dir: .*file"):
        open_run_folder(load_config(None, [f"run.dir={tmp_path / 'file' / 'runs'}"]), WORLD)


def test_a_run_of_this_name_is_gone_on_with_where_that_is_asked_for(tmp_path):
    assert not run_of(tmp_path, "resume.checkpoint=auto").continued
    run_folder._locks.pop().close()
    again = run_of(tmp_path, "resume.checkpoint=auto")
    assert (again.path.name, again.continued, again.restarted) == ("a", True, False)


def test_ranks_that_their_launcher_started_again_find_the_folder_of_their_job(tmp_path, monkeypatch):
    folder_of(tmp_path)
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "1")
    assert folder_of(tmp_path).name == "a-2"
    folder_of(tmp_path, "run.name=a-b")
    run_folder._locks[1].close()
    again = run_of(tmp_path, "run.overwrite=true")
    assert (again.path.name, again.continued, again.restarted) == ("a-2", True, True)
    assert len((again.path / "processes.jsonl").read_text().splitlines()) == 2


@pytest.mark.parametrize("option", ["resume.checkpoint=auto", "run.overwrite=true"])
def test_a_folder_that_another_process_trains_into_is_left_alone(tmp_path, option, monkeypatch):
    monkeypatch.setattr(run_folder, "_LOCK_PATIENCE_S", 0.0)
    folder = folder_of(tmp_path)
    with pytest.raises(
        ConfigError, match=r"^run.name: another process \(host .*, pid \d+, since 2.*\) is training into .*a/"
    ):
        folder_of(tmp_path, option)
    assert (folder / "config.yaml").exists()


@pytest.mark.parametrize("left", [[], [".lock"], ["log"], [".lock", "processes.jsonl", "config.yaml.part"]])
def test_a_folder_that_was_left_before_anything_was_written_is_that_of_the_run(tmp_path, left):
    (tmp_path / "a").mkdir()
    for name in left:
        (tmp_path / "a" / name).touch()
    assert run_of(tmp_path, "resume.checkpoint=auto").path.name == "a"


@pytest.mark.parametrize("source", ["a", "a/checkpoints/step_00000100", "link", "file://a"])
def test_overwrite_does_not_remove_what_training_is_to_go_on_from(tmp_path, source):
    first = folder_of(tmp_path)
    run_folder._locks.pop().close()
    (tmp_path / "link").symlink_to(first)
    path = f"file://{first}" if source == "file://a" else tmp_path / source
    with pytest.raises(ConfigError, match=r"run\.overwrite: would remove .*, from which training is to go on"):
        folder_of(tmp_path, "run.overwrite=true", f"resume.checkpoint={path}")
    assert (first / "config.yaml").exists()
    assert folder_of(tmp_path, "run.overwrite=true", f"resume.checkpoint={tmp_path}/b").name == "a"


def test_overwrite_removes_nothing_where_checkpoints_elsewhere_would_be_in_the_way(tmp_path):
    first = folder_of(tmp_path)
    run_folder._locks.pop().close()
    (tmp_path / "elsewhere" / "a" / "step_00000007").mkdir(parents=True)
    with pytest.raises(ConfigError, match=r"elsewhere/a holds 1 checkpoint\(s\) of an earlier run"):
        folder_of(tmp_path, "run.overwrite=true", f"checkpoint.dir={tmp_path}/elsewhere/")
    assert (first / "config.yaml").exists()


def test_hosts_that_do_not_see_the_folder_of_a_run_have_their_logs_and_know_the_run_again(tmp_path):
    logging.getLogger("dlrm").warning("before there is a folder")
    handlers = list(logging.root.handlers)
    try:
        open_log(tmp_path / "a", rank=1, warn=pytest.fail)
    finally:
        for handler in set(logging.root.handlers) - set(handlers):
            logging.root.removeHandler(handler)
            handler.close()
    assert (tmp_path / "a" / "log" / "rank1.log").exists()
    assert run_of(tmp_path, "resume.checkpoint=auto").path.name == "a"


def test_a_folder_of_somebody_else_is_not_taken_for_a_run(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "thesis.tex").touch()
    assert run_of(tmp_path, "resume.checkpoint=auto").path.name == "a-2"


def test_a_run_goes_on_in_a_folder_that_takes_no_file_any_more(tmp_path):
    first = folder_of(tmp_path)
    run_folder._locks.pop().close()
    (first / "config.yaml.part").mkdir()  # refuses everyone, root too
    run = run_of(tmp_path, "resume.checkpoint=auto")
    assert run.path == first
    assert [line.partition(":")[0] for line in run.lines] == ["warning"]
    assert "config.yaml.part: Is a directory" in run.lines[0]


def test_a_job_knows_its_folder_though_its_list_of_starts_is_damaged(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "job")
    first = folder_of(tmp_path)
    run_folder._locks.pop().close()
    starts = first / "processes.jsonl"
    starts.write_bytes(b'{"launchers": ["\xff"]}\n' + b"[]\n1\n" + starts.read_bytes() + b'{"laun')
    again = run_of(tmp_path)
    assert (again.path, again.restarted) == (first, True)


@pytest.fixture
def attempt(monkeypatch):
    """Have this process be started by a scheduler: the id of its job, and how often it was started again."""
    for name in ("DLRM_JOB_ID", "TORCHX_JOB_ID", "SLURM_JOB_ID", "AWS_BATCH_JOB_ID", "SLURM_CLUSTER_NAME"):
        monkeypatch.delenv(name, raising=False)

    def start(job):
        while run_folder._locks:
            run_folder._locks.pop().close()
        monkeypatch.setenv("SLURM_JOB_ID", job)

    return start


def test_a_job_that_its_scheduler_has_started_again_goes_on_in_its_folder(tmp_path, attempt):
    attempt("12")
    first = run_of(tmp_path, "resume.job=true")
    assert (first.path.name, first.continued) == ("a", False)
    attempt("13")
    another = run_of(tmp_path, "resume.job=true")
    assert (another.path.name, another.continued) == ("a-2", False)
    attempt("12")
    again = run_of(tmp_path, "resume.job=true", "run.overwrite=true")
    assert (again.path.name, again.continued, again.restarted) == ("a", True, True)
    attempt("12")
    assert run_of(tmp_path).path.name == "a-3"  # nobody has asked for it


def test_clusters_that_number_their_jobs_alike_are_told_apart(tmp_path, attempt, monkeypatch):
    attempt("12")
    run_of(tmp_path, "resume.job=true")
    attempt("12")
    monkeypatch.setenv("SLURM_CLUSTER_NAME", "other")
    assert run_of(tmp_path, "resume.job=true").path.name == "a-2"


def test_going_on_with_a_job_says_where_no_scheduler_has_named_it(tmp_path, attempt, monkeypatch):
    attempt("12")
    monkeypatch.delenv("SLURM_JOB_ID")
    run = run_of(tmp_path, "resume.job=true")
    assert not run.continued
    assert run.lines[0].startswith("resume.job: no scheduler has named its job (DLRM_JOB_ID, ")
