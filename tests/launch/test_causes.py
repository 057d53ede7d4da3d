"""What the launchers of several hosts say when ranks of one of them have failed."""

import os
import signal
import sys
import threading
import time
from contextlib import suppress
from datetime import timedelta
from itertools import permutations

import pytest
from torch.distributed import PrefixStore

from tests.launch.launching import HANG_S, PROGRAM, ROOT, two_hosts

sys.path.insert(0, str(ROOT / "launch"))
import causes
import host_store
from failures import STOP, Failure
from signed_store import SignedStore

USER = "rank 1: day_0.tsv, row 3, column I1: 'x' is not an integer"


def ended(hosts):
    """Exit code and standard error of each launcher."""
    told = [host.communicate(timeout=HANG_S)[1] for host in hosts]
    return [(host.returncode, err) for host, err in zip(hosts, told, strict=True)]


@pytest.mark.parametrize("kills", [False, True], ids=["", "and the scheduler kills all hosts when one ends"])
def test_what_the_user_has_to_mend_on_one_host_ends_all_launchers_with_exit_code_2_and_its_line(kills):
    with two_hosts("--nnodes", "2", "--max-restarts", "2", PROGRAM, "user") as hosts:
        ranks = ranks_in_order(hosts)
        if kills:
            for one, other in permutations(hosts):
                threading.Thread(target=terminate_after, args=(one, other), daemon=True).start()
        by_rank = dict(zip(ranks, ended(hosts), strict=True))
    assert by_rank[1] == (2, f"{USER}\n")
    assert by_rank[0][0] == 2
    assert by_rank[0][1].removeprefix("host 127.0.0.1: ").removeprefix("host 127.0.0.2: ") == f"{USER}\n"


@pytest.mark.slow
def test_ranks_are_started_again_on_all_hosts_with_the_cause_of_the_one():
    with two_hosts("--nnodes", "2", "--max-restarts", "2", PROGRAM, "killed_once") as hosts:
        told = ended(hosts)
    assert [code for code, _ in told] == [0, 0]
    killed = "rank 1 was killed by SIGKILL (out of memory?); starting all ranks again (1 more time(s) at most)\n"
    assert all(err.removeprefix("host 127.0.0.1: ").removeprefix("host 127.0.0.2: ") == killed for _, err in told)
    assert sum(err.startswith("host 127.0.0.") for _, err in told) == 1


@pytest.mark.parametrize("which", [0, 1])
@pytest.mark.slow
def test_a_host_that_is_told_to_stop_stops_the_others_which_name_it(which):
    with two_hosts("--nnodes", "2", "--max-restarts", "2", PROGRAM, "wait") as hosts:
        ranks_in_order(hosts)
        os.kill(hosts[which].pid, signal.SIGTERM)
        told = ended(hosts)
    assert told[which] == (143, "stopped by SIGTERM\n")
    line = f"host 127.0.0.{which + 1} was told to stop (SIGTERM), and all ranks have stopped\n"
    assert told[1 - which] == (143, line)


@pytest.fixture
def launchers():
    """What each of two launchers of a job knows of the other."""
    server = host_store.serve(host_store.listen("127.0.0.1", 0), timeout=timedelta(seconds=5))
    store = SignedStore(server, where="here:1", secret="s" * 32, job="job", watch=lambda keys: "")
    made = [causes.OtherHosts(name, store) for name in ("a", "b")]
    for rank, launcher in enumerate(made):
        launcher.begin(PrefixStore("round 1", store), rank=rank, hosts=2)
    return made


def test_a_cause_is_waited_for_where_only_consequences_are_known(launchers, monkeypatch):
    monkeypatch.setattr(causes, "CAUSE_PATIENCE_S", 60.0)
    one, other = launchers
    one.say([Failure(0, 1, 5.0, "peer", "rank 0 lost another rank")], final=False)
    threading.Timer(0.3, one.say, [[Failure(0, -9, 6.0)]], {"final": False}).start()
    other.wait_for_cause()
    assert other.failures == [Failure(0, -9, 6.0, host="a")]
    assert not other.job_ended
    assert causes.cause(other.failures) == "host a: rank 0 was killed by SIGKILL (out of memory?)\n"


def test_a_launcher_stays_until_all_others_know_that_the_job_has_ended(launchers, monkeypatch):
    monkeypatch.setattr(causes, "TOLD_PATIENCE_S", 60.0)
    monkeypatch.setattr(causes, "LOOK_EVERY_S", 0.0)
    one, other = launchers
    failure = Failure(0, 2, 5.0, "user", "day_0.tsv: no such file", details="not for others")
    one.say([failure], final=True)
    waiting = threading.Thread(target=one.wait_until_told)
    waiting.start()
    waiting.join(0.3)
    assert waiting.is_alive()
    other.look()
    with pytest.raises(causes.JobEnded, match=r"host a: day_0\.tsv: no such file") as ended:
        other.end_with_job()
    waiting.join(HANG_S)
    assert not waiting.is_alive()
    assert (ended.value.exit_code, ended.value.failures[0].details) == (2, "")
    assert other.end_of_job() == ended.value.failures  # for a host that has not been among those that met


def test_hosts_that_are_gone_are_not_waited_for_longer_than_stated(launchers, monkeypatch):
    monkeypatch.setattr(causes, "TOLD_PATIENCE_S", 0.2)
    monkeypatch.setattr(causes, "CAUSE_PATIENCE_S", 0.2)
    one, other = launchers
    other.wait_for_cause()
    assert other.failures == []
    one.say([Failure(-1, 143, 5.0, STOP, "was told to stop (SIGTERM)")], final=True)
    one.wait_until_told()
    assert one.job_ended
    assert one.failures == []


def test_a_host_that_does_not_answer_keeps_nobody_from_ending(launchers, monkeypatch):
    monkeypatch.setattr(causes, "TOLD_PATIENCE_S", 0.2)
    monkeypatch.setattr(causes, "CAUSE_PATIENCE_S", 0.2)
    one, _ = launchers
    one._store = one._job = Silent()
    ending = threading.Thread(target=end, args=(one,))
    ending.start()
    ending.join(HANG_S / 2)
    assert not ending.is_alive()
    assert one.failures == []


class Silent:
    """A store that takes longer than any patience."""

    def __getattr__(self, method):
        return lambda *_: time.sleep(HANG_S) or 0


def end(launcher):
    launcher.say([Failure(0, 2, 5.0, "user", "day_0.tsv: no such file")], final=True)
    launcher.wait_for_cause()
    launcher._is_counted = True
    launcher.wait_until_told()


def terminate_after(one, other):
    one.wait()
    with suppress(ProcessLookupError):
        other.terminate()


def ranks_in_order(hosts):
    """The rank of each host; they are there when this returns."""
    found = []
    for host in hosts:
        line = host.stdout.readline()
        assert line.startswith("up "), line
        found.append(int(line.split()[1]))
    return found
