"""How the launchers of a job find each other: by torch's c10d rendezvous, but without strangers and without silence.

``prepare`` has torchrun use it instead of torch's own. What differs:

* A job on one host listens on the loopback interface only. Over several hosts, what launchers read from each other is
  signed (launch/signed_store.py), and a state is looked through before torch unpickles it.
* The ranks' own store is served by the launcher of the first host, a new one each time ranks are started: no address of a
  rank that died is left in it, and it does not end with rank 0 while others still read.
* A host that is lost without a word (its network is cut, its power is gone) is noticed by its missing heartbeats after
  ``keep_alive_interval * keep_alive_max_attempt`` seconds, instead of when collectives time out.
* Whatever is waited for is said: for which hosts, how long at most, and which option changes it.

It needs torch and the standard library only.
"""

from __future__ import annotations

import argparse
import math
import os
import re
import socket
import uuid
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from causes import JobEnded, OtherHosts
from host_store import LOOPBACK, listen, open_store, serve
from hosts import Hosts
from interfaces import choose_for_gloo
from scheduler import in_slurm, port_of
from signed_store import HOW_TO_MAKE_ONE, SECRET_VARIABLE, SignedStore, checked_state, job_secret
from telling import WHAT_NEXT, LaunchError, Waiting, say
from times import RENDEZVOUS
from torch.distributed.elastic.rendezvous import (
    RendezvousClosedError,
    RendezvousError,
    RendezvousGracefulExitError,
    RendezvousHandler,
    RendezvousInfo,
    RendezvousParameters,
    RendezvousStoreInfo,
    RendezvousTimeoutError,
    rendezvous_handler_registry,
)
from torch.distributed.elastic.rendezvous.c10d_rendezvous_backend import DEFAULT_PORT, C10dRendezvousBackend
from torch.distributed.elastic.rendezvous.dynamic_rendezvous import RendezvousBackend, create_handler
from torch.distributed.elastic.rendezvous.utils import parse_rendezvous_endpoint
from torch.distributed.run import parse_min_max_nnodes

NAME = "dlrm-c10d"  # for torch's registry
RANKS_STORE = "dlrm/ranks_store"  # key of the address of the ranks' own store, and of the number of restarts
_RESTARTS = "dlrm/restarts"  # keys of what each launcher has counted
_END = "terminal_state"  # part of the keys by which torchelastic's agents wait for each other at the end


def prepare(options: argparse.Namespace) -> None:
    """Change torchrun's options so that it meets here, and the environment so that ranks get secret and interface.

    Raises:
        LaunchError: options contradict each other, or the secret is none.
    """
    rendezvous_handler_registry.register(NAME, Rendezvous)
    # With other backends ranks keep their store themselves: torch's launcher would serve one to all starts of the ranks.
    os.environ.setdefault("TORCH_DISABLE_SHARE_RDZV_TCP_STORE", "1")
    # Ranks wait for each other when they have joined: one with nothing to do would leave while another still connects.
    os.environ.setdefault("TORCH_DIST_INIT_BARRIER", "1")
    _, hosts = parse_min_max_nnodes(options.nnodes)
    if options.standalone and hosts > 1:
        raise LaunchError(f"--standalone is for one host, --nnodes is {options.nnodes}; leave one out", exit_code=2)
    if hosts == 1 and (options.standalone or options.rdzv_backend in ("static", "c10d")):
        if options.standalone or options.rdzv_id == "none":  # torchrun's default
            options.rdzv_id = str(uuid.uuid4())
        options.standalone, options.rdzv_backend, options.rdzv_endpoint = False, NAME, f"{LOOPBACK}:0"
        options.local_addr = LOOPBACK
        _stay_on_loopback()
    elif options.rdzv_backend == "c10d":
        if not options.rdzv_endpoint:
            line = (
                f"--nnodes {options.nnodes} needs --rdzv-endpoint HOST[:PORT], the first host and the same on all hosts"
            )
            raise LaunchError(line, exit_code=2)
        if not re.search(r":\d+$", options.rdzv_endpoint):
            options.rdzv_endpoint += f":{port_of(options.rdzv_id)}"
        choose_for_gloo(parse_rendezvous_endpoint(options.rdzv_endpoint, DEFAULT_PORT)[0])
        options.rdzv_backend = NAME
    if options.rdzv_backend == NAME:
        parts = [options.rdzv_conf, f"max_restarts={options.max_restarts}"]
        options.rdzv_conf = ",".join(filter(None, parts))
    os.environ[SECRET_VARIABLE] = secret = job_secret(hosts=hosts)
    if not secret:
        where = options.rdzv_endpoint or f"{options.master_addr}:{options.master_port}"
        say(
            f"{SECRET_VARIABLE} is not set: whoever reaches {where} can join or end this job, and run code in its ranks; "
            f"{HOW_TO_MAKE_ONE}"
        )


def _stay_on_loopback() -> None:
    """Have the ranks' own connections listen there as well, unless the user has named an interface."""
    if "lo" in [name for _, name in socket.if_nameindex()]:
        for variable in ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME"):
            os.environ.setdefault(variable, "lo")


class Rendezvous(RendezvousHandler):
    """The rendezvous of one launcher; torch's own does the work.

    Attributes:
        cause: why ranks have to be started again, if it is that a host was lost; else empty.
        news: that hosts have joined or left, and which.
        others: what the launchers of the other hosts say.
        restarts: how often ranks were started again because of a failure; the most that any launcher has counted, once
            hosts have met.
    """

    def __init__(self, params: RendezvousParameters) -> None:
        for name, value in RENDEZVOUS.items():
            params.config.setdefault(name, value)
        self._params = params
        self._join_s = _seconds(params, "join_timeout")
        interval_s = _seconds(params, "keep_alive_interval")
        self._hosts = Hosts(interval_s=interval_s, silence_s=interval_s * _seconds(params, "keep_alive_max_attempt"))
        self._waiting: Waiting | None = None
        self._ranks_store: Any = None
        self.cause = self.news = ""
        self.restarts = 0
        host, port = parse_rendezvous_endpoint(params.endpoint, DEFAULT_PORT)
        store = open_store(
            host,
            port,
            is_host=True if params.max_nodes == 1 else params.get_as_bool("is_host"),
            timeout=timedelta(seconds=_seconds(params, "read_timeout")),
            patience_s=self._join_s,
        )
        secret = os.environ.get(SECRET_VARIABLE, "")
        self._store = SignedStore(
            store, where=f"{host}:{store.port}", secret=secret, job=params.run_id, watch=self._watch
        )
        backend = _WatchedBackend(C10dRendezvousBackend(self._store, params.run_id), params.backend, self._note)
        self._torch = create_handler(self._store, backend, params)
        self._name = params.local_addr or socket.getfqdn()
        self.others = OtherHosts(self._name, self._store)

    def next_rendezvous(self) -> RendezvousInfo:
        """Meet the other hosts and return who this one is among them, and where the ranks' store is.

        Raises:
            JobEnded: another host has ended the job.
            LaunchError: not enough hosts came, or none can come.
        """
        self._require_hosts_that_come()
        self._waiting = Waiting(self._join_s, "--rdzv-conf join_timeout=SECONDS")
        os.environ["TORCH_DISABLE_SHARE_RDZV_TCP_STORE"] = "1"  # it is served here
        try:
            info = self._torch.next_rendezvous()
        except RendezvousTimeoutError as error:
            line = f"{self._hosts.here(self._params)}, and no more came within {self._join_s:g} s"
            fewer = "; --nnodes FEWEST:MOST lets it go on with fewer hosts" if self._hosts.count else ""
            raise LaunchError(f"{line} (--rdzv-conf join_timeout=SECONDS); {WHAT_NEXT}{fewer}") from error
        except (RendezvousClosedError, RendezvousGracefulExitError) as error:
            if failures := self.others.end_of_job():
                raise JobEnded(failures) from error
            line = "the job has ended on the other hosts"
            raise LaunchError(f"{line}; a new one needs another --rdzv-id than {self._params.run_id}") from error
        except LaunchError:
            raise
        except RendezvousError as error:
            line = f"hosts do not meet ({type(error).__name__}: {error})"
            raise LaunchError(f"{line}; {WHAT_NEXT}") from error
        finally:
            self._waiting = None
        self._hosts.meet()
        self.cause = self.news = ""
        self.others.begin(info.store, rank=info.rank, hosts=info.world_size)
        return RendezvousInfo(info.store, info.rank, info.world_size, self._ranks_address(info))

    def _require_hosts_that_come(self) -> None:
        """Do not wait for another host where none comes: Slurm gives a job all of its hosts when it starts it.

        Raises:
            LaunchError: one was lost, and the job cannot go on without it.
        """
        if in_slurm() and self._params.min_nodes == self._params.max_nodes and (lost := self.lost()):
            raise LaunchError(f"{lost}; Slurm brings no other host into this job; {WHAT_NEXT}")

    def num_nodes_waiting(self) -> int:
        """How many hosts want to join; at least one as well where hosts have left, so that those there meet again.

        Raises:
            LaunchError: a host was lost, and the job cannot go on without it.
        """
        waiting = self._torch.num_nodes_waiting()
        missing, lost = self._hosts.missing()
        if lost:
            self.cause = self._hosts.told(lost)
            left = self._hosts.count - len(missing)
            if left < self._params.min_nodes and not _seconds(self._params, "max_restarts"):
                needs = f"the job needs {self._params.min_nodes} hosts (--nnodes) and may not wait for another"
                raise LaunchError(f"{self.cause}; {needs} (--max-restarts 0); {WHAT_NEXT}")
        self.news = self._hosts.news(missing)
        return max(waiting, 1) if missing else waiting

    def lost(self) -> str:
        """Which hosts are lost or may be, in words; empty if none."""
        return self.cause or self._hosts.silent()

    def get_backend(self) -> str:
        """The name under which torch has registered this class."""
        return self._params.backend

    @property
    def use_agent_store(self) -> bool:
        """The launcher serves the ranks' store."""
        return True

    def is_closed(self) -> bool:
        """Whether a host has ended the job."""
        return self._torch.is_closed()

    def set_closed(self) -> None:
        """End the job."""
        self._torch.set_closed()

    def get_run_id(self) -> str:
        """The job's id."""
        return self._params.run_id

    def shutdown(self) -> bool:
        """End the job, if the store still answers."""
        return self._torch.shutdown()

    def _ranks_address(self, info: RendezvousInfo) -> RendezvousStoreInfo:
        counts = [f"{_RESTARTS}/{rank}" for rank in range(info.world_size)]
        info.store.set(counts[info.rank], str(self.restarts))
        if info.rank == 0:
            listener = listen(self._name, 0)
            port = listener.getsockname()[1]
            self._ranks_store = serve(listener, timeout=self._store.timeout)  # the earlier one closes
            restarts = max(int(count) for count in info.store.multi_get(counts))
            info.store.set(RANKS_STORE, f"{self._name} {port} {restarts}")
        host, port, restarts = info.store.get(RANKS_STORE).decode().split()
        self.restarts = int(restarts)
        return RendezvousStoreInfo(host, int(port))

    def _note(self, state: Any) -> None:
        self._hosts.note(state)
        if self._waiting is None:
            return
        here = self._hosts.here(self._params)
        if state.complete and len(state.participants) >= self._params.max_nodes:
            self._waiting.say(f"{here}; this one steps in when one of them leaves", left_s=math.inf)
        elif state.deadline is not None:  # there are enough for the job to go on
            left_s = (state.deadline - datetime.now(UTC)).total_seconds()
            self._waiting.say(here, left_s=left_s, option="--rdzv-conf last_call_timeout=SECONDS")
        else:
            self._waiting.say(here)

    def _watch(self, keys: Sequence[str]) -> str:
        """What launchers wait for where these keys are not there yet.

        Raises:
            LaunchError: a host was lost, or has ended the job.
        """
        at_end = any(_END in key for key in keys)
        self.others.look()
        self.others.end_with_job()  # torchelastic's agent takes no notice of what is raised at the end
        lost = self._hosts.missing()[1]
        if lost and at_end:  # torchelastic's agent takes no notice: the ranks of this host have ended well
            say(f"{self._hosts.told(lost)}; the ranks of this host had ended by then")
        if lost:
            raise LaunchError(self._hosts.told(lost))
        return "this host's ranks have ended, others have not" if at_end else "hosts have met, and one does not answer"


class _WatchedBackend(RendezvousBackend):
    """Has a look at each state of the rendezvous before torch unpickles it.

    Args:
        backend: torch's.
        note: called with each state.
    """

    def __init__(self, backend: RendezvousBackend, name: str, note: Callable[[Any], None]) -> None:
        self._backend = backend
        self._name = name
        self._note = note

    @property
    def name(self) -> str:
        """As registered."""
        return self._name

    def get_state(self) -> tuple[bytes, Any] | None:
        """The state and its token, if there is one."""
        return self._seen(self._backend.get_state())

    def set_state(self, state: bytes, token: Any = None) -> tuple[bytes, Any, bool] | None:
        """Replace the state that has this token; return what is there then."""
        return self._seen(self._backend.set_state(state, token))

    def _seen(self, found: Any) -> Any:
        if found is not None:
            self._note(checked_state(found[0]))
        return found


def _seconds(params: RendezvousParameters, name: str) -> int:
    """A number of the rendezvous's configuration; 0 if it is not there."""
    return params.get_as_int(name, 0) or 0
