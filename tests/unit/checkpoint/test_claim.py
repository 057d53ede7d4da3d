"""One job at a time writes a folder of checkpoints, whoever the other is and wherever it runs."""

import json
import subprocess
import sys
import threading
from contextlib import contextmanager

import pytest

from dlrm.checkpoint import claim as claiming
from dlrm.checkpoint.claim import Claim
from dlrm.checkpoint.owner import this_process
from dlrm.checkpoint.saver import AsyncSaver
from dlrm.checkpoint.storage import LocalStorage
from dlrm.distributed.collectives import OneProcess
from dlrm.errors import ConfigError

ELSEWHERE = {
    "host": "other",
    "place": "boot ns",
    "pid": 7,
    "started": 8,
    "since": 1.7e9,
    "launchers": [],
    "job": None,
}
TOKEN = "0123456789abcdef"


@pytest.fixture
def place(tmp_path):
    return LocalStorage(), str(tmp_path)


@pytest.fixture(params=["local", "remote"])
def anywhere(request):
    if request.param == "local":
        return request.getfixturevalue("place")
    return request.getfixturevalue("s3"), request.getfixturevalue("folder")


MADE = []


@pytest.fixture(autouse=True)
def looks_that_follow_fast(monkeypatch):
    monkeypatch.setattr(claiming, "_LOOK_S", 0.01)
    yield
    while MADE:
        MADE.pop()._ended.set()  # or their beats would be counted where other tests count what is sent to a store


def claim(place, launchers=()):
    said = []
    made = Claim(*place, list(launchers), said.append)
    made.said = said
    MADE.append(made)
    return made


def leave(place, who, beat=3, token=TOKEN):
    storage, folder = place
    storage.put(f"{folder}/owner.{token}.{beat}.json", json.dumps(who).encode())


def claims(place):
    storage, folder = place
    return [name for name in storage.names(folder) if name.startswith("owner")]


@contextmanager
def another_process():
    """A process that lives, as it describes itself."""
    words = "import sys; from dlrm.checkpoint.owner import this_process; print(this_process().decode(), flush=True)"
    with subprocess.Popen(
        [sys.executable, "-c", f"{words}; sys.stdin.read()"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        yield json.loads(process.stdout.readline()) | {"host": "here", "since": 1.7e9}, process


def test_a_folder_is_claimed_and_given_back(anywhere):
    mine = claim(anywhere)
    mine.take()
    assert len(claims(anywhere)) == 1
    mine.check()
    mine.release()
    storage, folder = anywhere
    assert not storage.is_folder(folder) or storage.names(folder) == []
    claim(anywhere).take()


def test_a_process_that_lives_is_named_and_one_that_is_dead_is_no_obstacle(place, tmp_path, monkeypatch):
    monkeypatch.setattr(claiming, "_ALIVE_PATIENCE_S", 0.0)
    with another_process() as (who, process):
        leave(place, who)
        with pytest.raises(ConfigError) as refused:
            claim(place).take()
        named = f"run.name: {tmp_path} is written by another job (host here, pid {process.pid}, since 2023-11-1"
        assert str(refused.value).startswith(named)
        assert str(refused.value).endswith("; wait for it to end, or use another run.name")
        assert claims(place) == [f"owner.{TOKEN}.3.json"]
        process.stdin.close()
        process.wait()
    later = claim(place)
    later.take()
    assert (later.said, TOKEN in claims(place)[0]) == ([], False)
    later.release()


def test_a_job_elsewhere_lives_if_its_claim_changes_while_it_is_watched(place):
    leave(place, ELSEWHERE)

    def beat(line):
        leave(place, ELSEWHERE, beat=4)
        place[0].remove_file(f"{place[1]}/owner.{TOKEN}.3.json")

    with pytest.raises(ConfigError, match=r"is written by another job \(host other, pid 7, since 2023"):
        Claim(*place, [], beat).take(watch_s=60)


@pytest.mark.parametrize("who", [ELSEWHERE, [], {}, {"host": 3, "pid": "x", "since": 1e300}])
def test_a_claim_that_never_changes_was_left_by_a_job_that_is_gone(place, who):
    leave(place, who)
    mine = claim(place)
    mine.take(watch_s=0.05)
    assert len(mine.said) == 1
    assert "was left by another job" in mine.said[0]
    assert len(claims(place)) == 1
    mine.check()
    mine.release()


@pytest.mark.parametrize(
    ("theirs", "slurm", "same"),
    [
        ({"launchers": ["x", "boot ns 5 6"]}, None, True),  # torchelastic has started the ranks again
        ({"job": ["12", "0"]}, ("12", "1"), True),  # Slurm has queued the job again
        ({"job": ["12", "0"]}, ("12", None), False),  # two steps side by side in one job
        ({"job": ["11", "0"]}, ("12", "1"), False),
    ],
)
def test_a_job_that_was_started_again_goes_on_at_once(place, monkeypatch, theirs, slurm, same):
    for name, value in zip(("SLURM_JOB_ID", "SLURM_RESTART_COUNT"), slurm or (None, None), strict=True):
        monkeypatch.delenv(name, raising=False)
        if value is not None:
            monkeypatch.setenv(name, value)
    leave(place, ELSEWHERE | theirs)
    mine = claim(place, launchers=["boot ns 5 6"])
    mine.take(watch_s=0.02)
    assert (mine.said == []) == same
    mine.release()


def test_this_very_process_may_train_again_after_it_has_failed(place):
    leave(place, ELSEWHERE | json.loads(this_process()))
    claim(place).take()


def test_jobs_that_come_at_the_same_time_do_not_both_get_the_folder(place, monkeypatch):
    mine = claim(place)
    write = mine._write

    def both():
        write()
        leave(place, ELSEWHERE)

    monkeypatch.setattr(mine, "_write", both)
    with pytest.raises(ConfigError, match="another job"):
        mine.take()
    assert claims(place) == [f"owner.{TOKEN}.3.json"]


def test_a_job_that_another_has_taken_over_saves_nothing_more(anywhere):
    mine = claim(anywhere)
    mine.take()
    saver = AsyncSaver(anywhere[1], OneProcess(), storage=anywhere[0], before_save=mine.check)
    saver.save(1, [], {})
    saver.wait()
    leave(anywhere, ELSEWHERE)
    with pytest.raises(ConfigError, match=r"^run.name: .* is written by another job \(host other"):
        saver.save(2, [], {})
    assert "step_00000002" not in anywhere[0].names(anywhere[1])
    mine.release()


def test_a_job_whose_claim_was_removed_by_one_that_has_ended_since_saves_nothing_more(place, monkeypatch):
    mine = claim(place)
    mine.take()
    for name in claims(place):
        place[0].remove_file(f"{place[1]}/{name}")
    monkeypatch.setattr(claiming, "BEAT_S", 0.01)
    mine._keep()  # the next beat
    with pytest.raises(ConfigError, match=r"has taken .* over, or the mark of this one in it was removed"):
        mine.check()
    mine.release()


def test_a_beat_replaces_the_one_before(anywhere, monkeypatch):
    monkeypatch.setattr(claiming, "BEAT_S", 0.01)
    mine = claim(anywhere)
    done = threading.Event()
    write = mine._write

    def counted():
        write()
        if mine._beat > 3:
            done.set()

    mine._write = counted
    mine.take()
    assert done.wait(60)
    mine.check()
    mine.release()
    assert not mine._beating.is_alive()
    storage, folder = anywhere
    assert not storage.is_folder(folder) or claims(anywhere) == []
