"""torchelastic: what launch/ wraps, reads and sets."""

from __future__ import annotations

import json
import pickle
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest

from tests.unit.contracts.hooks import ROOT, hook

AGENT = """
import json, sys
sys.path.insert(0, "launch")
import elastic_agent
from torch.distributed.launcher.api import LaunchConfig, elastic_launch
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

class Watcher:
    def __init__(self):
        self.told, self.looks, self.may_help = [], 0, True
    def looking(self, pids, rendezvous, restarts_left):
        self.looks += len(set(pids)) == 2
    def seen(self, failures):
        if failures:
            self.told.append(["seen", failures[0].exitcode])
        return self.may_help
    def ending(self, pids, failures):
        if pids:
            self.told.append(["ending", len(pids), {rank: failure.exitcode for rank, failure in failures.items()}])
    def restarting(self, rendezvous, restarts_left):
        self.told.append(["restarting", hasattr(rendezvous, "num_nodes_waiting"), restarts_left])
        return True

watcher = Watcher()
elastic_agent.watch(watcher, shutdown_s=1)
told = []
for watcher.may_help in (True, False):
    config = LaunchConfig(
        min_nodes=1, max_nodes=1, nproc_per_node=2, run_id=str(watcher.may_help), rdzv_backend="c10d",
        rdzv_endpoint="127.0.0.1:0", max_restarts=1, monitor_interval=0.05,
    )
    try:
        elastic_launch(config, "/bin/sh")("-c", "test $RANK = 1 && exec sleep 60; exit 3")
    except ChildFailedError as error:
        told.append([*watcher.told, ["failed", error.failures[0].exitcode]])
    watcher.told = []
print(json.dumps([watcher.looks > 2, *told]))
"""


@hook(
    "_monitor_workers", "_restart_workers", "_rendezvous", "_pcontext", "_remaining_restarts", "_shutdown", "_close",
    "_failures", "max_restarts", of="torch",
    used_in="launch/elastic_agent.py",
    see="torch/distributed/elastic/agent/server/local_elastic_agent.py, api.py and multiprocessing/api.py",
)  # fmt: skip
def test_the_agent_tells_of_failures_and_restarts_and_can_be_kept_from_them() -> None:
    job = subprocess.run([sys.executable, "-c", AGENT], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert job.returncode == 0, job.stderr
    looked, restarted, kept = json.loads(job.stdout.splitlines()[-1])
    assert looked
    stopped = [["ending", 1, {"0": 3}], ["seen", 3]]  # the agent ends the other rank, then says which has failed
    assert restarted == [*stopped, ["restarting", True, 0], *stopped, ["failed", 3]]
    assert kept == [*stopped, ["failed", 3]]


@pytest.fixture
def launch(monkeypatch: pytest.MonkeyPatch) -> None:
    """The launcher's modules can be imported, as the launcher does."""
    monkeypatch.syspath_prepend(str(ROOT / "launch"))


@hook(
    "_RendezvousState", "_NodeDesc", "_TERMINAL_STATE_SYNC_ID", of="torch",
    used_in="launch/signed_store.py, rendezvous.py", see="torch/distributed/elastic/rendezvous/dynamic_rendezvous.py",
)  # fmt: skip
def test_the_state_of_a_rendezvous_is_read_by_the_launcher(launch: None) -> None:
    import rendezvous
    from signed_store import checked_state
    from torch.distributed.elastic.agent.server import api
    from torch.distributed.elastic.rendezvous.dynamic_rendezvous import _NodeDesc, _RendezvousState

    state, host, now = _RendezvousState(), _NodeDesc("host", 12, 3), datetime.now(UTC)
    state.participants[host] = 0
    state.last_heartbeats[host] = now
    state.wait_list.add(host)
    state.deadline = now
    read = checked_state(pickle.dumps(state))
    assert (read.participants, read.last_heartbeats, read.deadline) == ({host: 0}, {host: now}, now)
    assert (read.complete, read.closed, next(iter(read.participants)).addr) == (False, False, "host")
    assert rendezvous._END in api._TERMINAL_STATE_SYNC_ID


@hook("parse_args", of="torch", used_in="launch/elastic.py, rendezvous.py", see="torch/distributed/run.py")
def test_torchrun_s_options_are_those_that_the_launcher_reads_and_sets() -> None:
    from torch.distributed import run

    options = run.parse_args(["--nproc-per-node", "2", "script.py"])
    expected = {
        "standalone": False, "rdzv_backend": "static", "rdzv_endpoint": "", "rdzv_id": "none", "rdzv_conf": "",
        "nnodes": "1:1", "max_restarts": 0, "local_addr": None, "master_addr": "127.0.0.1",
    }  # fmt: skip
    assert {name: getattr(options, name) for name in expected} == expected
    assert options.master_port in (None, 29500)  # where none is given
    assert "SIGTERM" in options.signals_to_handle.split(",")
    assert run.determine_local_world_size(options.nproc_per_node) == 2


@hook(
    "error_file_data", of="torch", used_in="launch/elastic.py and dlrm/command/failure.py, which writes that file",
    see="class ProcessFailure in torch/distributed/elastic/multiprocessing/errors/__init__.py",
)  # fmt: skip
def test_a_failure_carries_what_its_rank_has_written_into_its_error_file(tmp_path: Path) -> None:
    from torch.distributed.elastic.multiprocessing.errors import ProcessFailure

    content = {
        "message": {"message": "a line", "errorCode": 2, "extraInfo": {"py_callstack": "", "timestamp": "12"}},
        "dlrm": {"kind": "user"},
    }
    (tmp_path / "error.json").write_text(json.dumps(content))
    failure = ProcessFailure(local_rank=0, pid=7, exitcode=2, error_file=str(tmp_path / "error.json"))
    assert (failure.pid, failure.exitcode, float(failure.timestamp)) == (7, 2, 12.0)
    assert failure.error_file_data["dlrm"] == {"kind": "user"}
    silent = ProcessFailure(local_rank=0, pid=7, exitcode=-9, error_file="none")
    assert silent.error_file_data.get("dlrm") is None
