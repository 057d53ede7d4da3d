"""Strangers and silence where launchers meet."""

import base64
import os
import pickle
import re
import socket
import sys
import threading
import time
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path

import psutil
import pytest
from torch.distributed import PrefixStore, TCPStore
from torch.distributed import run as torchrun
from torch.distributed.elastic.rendezvous import RendezvousParameters
from torch.distributed.elastic.rendezvous.dynamic_rendezvous import _NodeDesc, _RendezvousState

from tests.launch.launching import ELASTIC, HANG_S, ROOT, ranks_up, started

sys.path.insert(0, str(ROOT / "launch"))
import host_store
import rendezvous
import telling
import times
from signed_store import SignedStore, checked_state, job_secret

SECRET = "s" * 32


class Creates:
    """Pickled, it creates a file when it is read."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return (Path.touch, (self.path,))


@pytest.fixture
def store():
    """A store on the loopback interface, as its server sees it."""
    return host_store.serve(host_store.listen("127.0.0.1", 0), timeout=timedelta(seconds=5))


def signed(store, *, secret=SECRET, job="job", watch=lambda keys: ""):
    return SignedStore(store, where="here:1", secret=secret, job=job, watch=watch)


def listening(process):
    """Addresses and ports on which a process and what it started listen."""
    family = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
    found = [each.laddr for one in family for each in one.net_connections("tcp") if each.status == psutil.CONN_LISTEN]
    assert found
    return found


def attack(port, path):
    """Put a pickle that creates a file wherever launchers might read one; whether a rendezvous was there."""
    client = TCPStore("127.0.0.1", port, is_master=False, timeout=timedelta(seconds=5))
    states = [key for key in client.list_keys() if "torch.rendezvous" in key and key.count(".") == 2 and "/" not in key]
    for key in states:
        client.set(key, base64.b64encode(pickle.dumps(Creates(path))))
    return bool(states)


def test_a_job_on_one_host_listens_on_loopback_only_and_executes_nothing_that_a_stranger_stores(tmp_path):
    with started(*ELASTIC, "asked") as job:
        ranks_up(job, 2)
        addresses = listening(job)
        assert {address.ip for address in addresses} == {"127.0.0.1"}
        ports = [each.laddr.port for each in psutil.Process(job.pid).net_connections("tcp") if each.status == "LISTEN"]
        assert sum(attack(port, tmp_path / "executed") for port in ports) == 1
        _, err = job.communicate(timeout=HANG_S)
    assert not (tmp_path / "executed").exists()
    assert job.returncode == 2
    assert re.match(r"what lies at 127.0.0.1:\d+, where the hosts meet, was not written by a launcher", err)


def test_values_come_back_through_a_signed_store_and_its_prefixes(store):
    mine = signed(store)
    prefixed = PrefixStore("round 1", mine)
    prefixed.set("key", b"\x00\xffvalue")
    prefixed.multi_set(["a", "b"], ["1", "2"])
    assert prefixed.get("key") == b"\x00\xffvalue"
    assert prefixed.multi_get(["a", "b"]) == [b"1", b"2"]
    assert (prefixed.add("count", 2), prefixed.add("count", 1)) == (2, 3)


def test_compare_set_of_a_signed_store_replaces_what_is_expected_only(store):
    mine = signed(store)
    assert mine.compare_set("key", "", "one") == b"one"
    assert mine.compare_set("key", b"one", b"two") == b"two"
    assert mine.compare_set("key", "one", "three") == b"two"
    assert mine.get("key") == b"two"


@pytest.mark.parametrize("other", [{"secret": "t" * 32}, {"job": "other"}, {"secret": ""}])
def test_what_was_signed_with_another_secret_or_for_another_job_is_refused(store, other):
    signed(store, **other).set("key", "value")
    with pytest.raises(telling.LaunchError, match="DLRM_JOB_SECRET differs between the hosts") as refused:
        signed(store).get("key")
    assert refused.value.exit_code == 2


def test_a_signed_value_is_refused_under_another_key(store):
    signed(store).set("key", "value")
    store.set("other", store.get("key"))
    with pytest.raises(telling.LaunchError, match="not written by a launcher of this job"):
        signed(store).get("other")


def test_a_store_that_is_gone_is_one_line():
    server = host_store.serve(host_store.listen("127.0.0.1", 0), timeout=timedelta(seconds=5))
    client = TCPStore("127.0.0.1", server.port, is_master=False, timeout=timedelta(seconds=5))
    del server
    line = r"lost the first host \(here:1, where the hosts meet\): its launcher or its network is gone; the job ends"
    with pytest.raises(telling.LaunchError, match=line):
        signed(client).get("key")


def test_a_state_of_a_rendezvous_is_read_and_anything_else_that_is_pickled_refused(tmp_path):
    node, state = _NodeDesc("host", 1, 0), _RendezvousState()
    state.participants[node] = 0
    state.wait_list.add(node)
    state.last_heartbeats[node] = state.deadline = datetime.now(UTC)
    assert checked_state(pickle.dumps(state)).last_heartbeats == state.last_heartbeats
    state.closed = Creates(tmp_path / "executed")
    for hostile in (pickle.dumps(state), pickle.dumps(Creates(tmp_path / "executed")), b"\x80", b""):
        with pytest.raises(telling.LaunchError, match="the state of the rendezvous"):
            checked_state(hostile)
    assert not (tmp_path / "executed").exists()


def test_one_host_needs_no_secret_and_several_do(monkeypatch):
    monkeypatch.delenv("DLRM_JOB_SECRET", raising=False)
    assert len(job_secret(hosts=1)) == 64
    assert job_secret(hosts=1) != job_secret(hosts=1)
    assert job_secret(hosts=2) == ""
    monkeypatch.setenv("DLRM_JOB_SECRET", "short")
    with pytest.raises(telling.LaunchError, match="DLRM_JOB_SECRET has 5 characters, 16 are the fewest"):
        job_secret(hosts=1)


def test_hosts_of_which_nothing_is_heard_are_lost_and_those_that_left_are_missing(monkeypatch):
    now_s = [100.0]
    monkeypatch.setattr("time.monotonic", lambda: now_s[0])
    hosts = rendezvous.Hosts(interval_s=5, silence_s=25)
    a, b, c = nodes = [_NodeDesc(name, 1, 0) for name in "abc"]
    state = _RendezvousState()
    state.participants = dict.fromkeys(nodes, 0)

    def beat(*alive):
        state.last_heartbeats |= {node: datetime.fromtimestamp(now_s[0], UTC) for node in alive}
        hosts.note(state)

    beat(*nodes)
    hosts.meet()
    now_s[0] += 10
    beat(a, b)
    del state.participants[b]  # it starts its ranks again
    assert hosts.missing() == ([b], [])
    now_s[0] += 15.1
    beat(a, b)
    assert hosts.missing() == ([b, c], [c])
    assert hosts.told([c]).startswith("lost host c: nothing was heard of it for 25 s")


def test_hosts_that_fall_silent_because_the_job_has_ended_are_not_lost(monkeypatch):
    now_s = [100.0]
    monkeypatch.setattr("time.monotonic", lambda: now_s[0])
    hosts = rendezvous.Hosts(interval_s=5, silence_s=25)
    nodes = [_NodeDesc(name, 1, 0) for name in "ab"]
    state = _RendezvousState()
    state.participants = dict.fromkeys(nodes, 0)
    state.last_heartbeats = dict.fromkeys(nodes, datetime.now(UTC))
    hosts.note(state)
    hosts.meet()
    now_s[0] += 8
    state.closed = True
    hosts.note(state)
    now_s[0] += 100
    assert hosts.missing() == ([], [])


@pytest.fixture
def launcher(store, monkeypatch):
    """A rendezvous of one to two hosts that waits for the second one; its store is there."""
    monkeypatch.setattr(telling, "FIRST_S", 0.0)
    monkeypatch.setattr(rendezvous, "open_store", lambda *_, **__: store)
    meeting = {"join_timeout": "300", "last_call_timeout": "15", "max_restarts": "0"}
    params = RendezvousParameters(rendezvous.NAME, "first:29400", "job", 1, 2, "first", **meeting)
    made = rendezvous.Rendezvous(params)
    made._waiting = telling.Waiting(300, "--rdzv-conf join_timeout=SECONDS")
    return made


@pytest.mark.parametrize(
    ("here", "complete", "left_s", "told"),
    [
        (
            "",
            False,
            None,
            r"0 of 1 to 2 hosts \(--nnodes\) are here; waiting 300 s more at most \(--rdzv-conf join_timeout",
        ),
        (
            "a",
            False,
            15,
            r"1 of 1 to 2 .* here: a; waiting 1[45] s more at most \(--rdzv-conf last_call_timeout=SECONDS\)",
        ),
        ("ab", True, None, r"2 of 1 to 2 .* here: a, b; this one steps in when one of them leaves\n$"),
    ],
)
def test_it_is_told_which_hosts_are_waited_for_and_how_long(launcher, capsys, here, complete, left_s, told):
    state = _RendezvousState()
    state.participants = {_NodeDesc(name, 1, 0): 0 for name in here}
    state.complete = complete
    state.deadline = None if left_s is None else datetime.now(UTC) + timedelta(seconds=left_s)
    launcher._note(state)
    assert re.match(told, capsys.readouterr().err)


def test_a_host_without_which_the_job_cannot_go_on_ends_it(launcher, monkeypatch):
    gone, here = _NodeDesc("gone", 1, 0), _NodeDesc("here", 1, 0)
    monkeypatch.setattr(launcher._torch, "num_nodes_waiting", lambda: 0)
    monkeypatch.setattr(launcher._hosts, "missing", lambda: ([gone], [gone]))
    launcher._hosts.note(_RendezvousState())
    launcher._hosts._met = [gone, here]
    assert launcher.num_nodes_waiting() == 1  # one is enough: the ranks are started again
    assert launcher.cause.startswith("lost host gone: nothing was heard of it for 50 s")
    launcher._params.min_nodes = 2
    with pytest.raises(telling.LaunchError, match=r"lost host gone: .* the job needs 2 hosts \(--nnodes\)"):
        launcher.num_nodes_waiting()


def test_in_slurm_a_lost_host_is_not_waited_for_because_none_comes_into_a_job(launcher, monkeypatch):
    monkeypatch.setattr(launcher._torch, "next_rendezvous", lambda: pytest.fail("waited"))
    launcher._params.min_nodes = 2
    launcher.cause = "lost host gone"
    monkeypatch.setenv("SLURM_JOB_ID", "12")
    with pytest.raises(
        telling.LaunchError, match=r"^lost host gone; Slurm brings no other host into this job; "
    ) as ended:
        launcher.next_rendezvous()
    assert ended.value.exit_code == 1  # so that Slurm starts the job again


def test_a_first_host_that_comes_late_is_waited_for_and_the_wait_is_told(monkeypatch, capsys):
    monkeypatch.setattr(telling, "FIRST_S", 0.0)
    monkeypatch.setattr(host_store, "_POLL_S", 0.01)
    with closing(host_store.listen("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    served = []

    def come_late():
        time.sleep(0.2)
        served.append(host_store.serve(host_store.listen("127.0.0.1", port), timeout=timedelta(seconds=5)))

    late = threading.Thread(target=come_late)
    late.start()
    found = host_store.open_store("127.0.0.1", port, is_host=False, timeout=timedelta(seconds=5), patience_s=60)
    late.join()
    found.set("key", "value")
    assert served[0].get("key") == b"value"
    line = f"the first host does not listen on 127.0.0.1:{port} yet, or it is another (Connection refused); waiting "
    assert capsys.readouterr().err.startswith(line)


def test_an_address_where_nobody_comes_or_another_program_listens_is_one_line(monkeypatch):
    monkeypatch.setattr(host_store, "_POLL_S", 0.01)
    with closing(host_store.listen("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        with pytest.raises(telling.LaunchError, match="answers, but not as the launcher of the first host would"):
            host_store.open_store("127.0.0.1", port, is_host=False, timeout=timedelta(seconds=1), patience_s=0)
    with pytest.raises(telling.LaunchError, match=f"does not listen on 127.0.0.1:{port} yet.*gave up after 0 s"):
        host_store.open_store("127.0.0.1", port, is_host=False, timeout=timedelta(seconds=1), patience_s=0)
    monkeypatch.setattr(host_store.socket, "create_connection", no_such_name)
    with pytest.raises(telling.LaunchError, match=r"nowhere \(--rdzv-endpoint\) names no host that this one knows"):
        host_store.open_store("nowhere", port, is_host=False, timeout=timedelta(seconds=1), patience_s=0)


def test_a_host_knows_its_own_addresses():
    assert host_store.is_this_host("127.0.0.1")
    assert host_store.is_this_host(socket.gethostname())
    assert not host_store.is_this_host("203.0.113.1")  # of a block for documentation
    assert not host_store.is_this_host("nowhere.invalid")


def test_a_pod_knows_itself_by_the_name_that_others_have_for_it_before_that_is_published(monkeypatch):
    monkeypatch.setattr(socket, "gethostname", lambda: "dlrm-0")
    assert host_store.is_this_host("dlrm-0.invalid")
    assert not host_store.is_this_host("dlrm-1.invalid")


def no_such_name(*_, **__):
    raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")


@pytest.fixture
def prepared(monkeypatch):
    """What launch/elastic.py makes of torchrun's options."""
    for name in ("DLRM_JOB_SECRET", "GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME"):
        monkeypatch.setenv(name, "")  # restored afterwards
        monkeypatch.delenv(name)

    def prepare(*arguments):
        options = torchrun.parse_args([*arguments, "none.py"])
        rendezvous.prepare(options)
        return options

    return prepare


@pytest.mark.parametrize(
    "arguments",
    [["--standalone"], [], ["--rdzv-backend", "c10d", "--rdzv-endpoint", "here:29400"], ["--nnodes", "1:1"]],
)
def test_one_host_meets_alone_on_loopback_with_a_secret_of_its_own(prepared, arguments):
    options = prepared(*arguments)
    assert (options.rdzv_backend, options.rdzv_endpoint, options.local_addr) == (
        "dlrm-c10d",
        "127.0.0.1:0",
        "127.0.0.1",
    )
    assert len(os.environ["DLRM_JOB_SECRET"]) == 64
    assert os.environ["GLOO_SOCKET_IFNAME"] == "lo"


def test_hosts_that_meet_without_a_secret_are_told_what_that_risks(prepared, capsys, monkeypatch):
    meeting = ["--nnodes", "2", "--rdzv-backend", "c10d", "--rdzv-endpoint", "first:29400"]
    assert prepared(*meeting).rdzv_endpoint == "first:29400"
    told = (
        "DLRM_JOB_SECRET is not set: whoever reaches first:29400 can join or end this job, and run code in its ranks; "
    )
    assert capsys.readouterr().err == f"{told}export DLRM_JOB_SECRET=$(openssl rand -hex 32), the same on all hosts\n"
    monkeypatch.setenv("DLRM_JOB_SECRET", SECRET)
    assert prepared(*meeting).rdzv_backend == "dlrm-c10d"
    assert capsys.readouterr().err == ""
    assert os.environ.get("GLOO_SOCKET_IFNAME") != "lo"


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["--nnodes", "2", "--rdzv-backend", "c10d"], "--nnodes 2 needs --rdzv-endpoint HOST"),
        (["--nnodes", "2", "--standalone"], "--standalone is for one host, --nnodes is 2"),
    ],
)
def test_options_of_which_no_meeting_can_come_are_one_line(prepared, arguments, line):
    with pytest.raises(telling.LaunchError, match=line) as refused:
        prepared(*arguments)
    assert refused.value.exit_code == 2


def test_the_guide_states_the_times_that_hosts_are_waited_for():
    guide = (ROOT / "docs/launching.md").read_text()
    for option, seconds in times.RENDEZVOUS.items():
        assert f"| `{option}` | {seconds} |" in guide
    silence_s = times.RENDEZVOUS["keep_alive_interval"] * times.RENDEZVOUS["keep_alive_max_attempt"]
    assert f"\n{silence_s} s of silence" in guide
    assert f"nothing is acknowledged for {times.UNANSWERED_S} s" in guide
    assert f"waits up to {times.TOLD_PATIENCE_S:g} s until all others know why" in guide
    assert f"waits up to {times.CAUSE_PATIENCE_S:g} s for the cause" in guide


def test_a_first_host_that_is_frozen_is_lost_after_the_time_that_answers_are_waited_for(store):
    class Frozen:
        timeout = timedelta(seconds=0.2)

        def check(self, keys):
            time.sleep(HANG_S)

    with pytest.raises(telling.LaunchError, match=r"lost the first host .*no answer within 0.2 s"):
        signed(Frozen()).check(["key"])
