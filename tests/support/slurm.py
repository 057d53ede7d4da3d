"""A real Slurm of several hosts on one machine: each host has its own network namespace, host name and address.

Everything lives in one folder, and nothing in /etc changes. Debian's packages are named in :data:`PACKAGES`. It needs Linux
and root. The hosts share this machine's cores and its file system, as the hosts of a cluster share a file system.
"""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import subprocess
import time
import zlib
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

PACKAGES = "slurm-wlm slurmdbd slurm-wlm-mysql-plugin munge mariadb-server iproute2"
_NEEDED = ("slurmctld", "slurmd", "slurmdbd", "munged", "mariadbd", "ip", "nsenter", "unshare")
_CPUS, _MEMORY_MB = 2, 8000
LOGIN = "login"
KILL_WAIT_S = 30
_STARTS_S = 60.0
_POLL_S = 0.1


def missing() -> str:
    """Why no Slurm can be started here; empty if one can."""
    if not hasattr(os, "geteuid") or os.geteuid() != 0:
        return "a Slurm for tests needs root and Linux"
    absent = [name for name in _NEEDED if shutil.which(name, path=_path()) is None]
    return (
        f"{', '.join(absent)} not found; Debian: apt-get install --no-install-recommends {PACKAGES}" if absent else ""
    )


def _path() -> str:
    return f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"


@dataclass
class SlurmCluster:
    """Use it as a context: on entry all hosts are ready, on exit every process of it is gone.

    Two partitions share the hosts: main, and urgent, whose jobs preempt those of main by requeueing them.

    Attributes:
        folder: for everything the cluster writes.
        hosts: how many; they are called n1, n2, ...
    """

    folder: Path
    hosts: int = 2
    _daemons: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    def __enter__(self) -> SlurmCluster:
        try:
            self._start()
        except BaseException:
            self._stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._stop()

    def run(self, *command: str, host: str = LOGIN, check: bool = True, more: Mapping[str, str] | None = None) -> str:
        """What a command prints on a host; ``more`` is added to the environment.

        Raises:
            RuntimeError: it failed, and ``check`` says that it must not.
        """
        done = subprocess.run(
            self._inside(host, command), capture_output=True, text=True, env=self._environment(more or {}), check=False
        )
        if check and done.returncode:
            raise RuntimeError(f"{' '.join(command)}: exit code {done.returncode}\n{done.stdout}{done.stderr}")
        return done.stdout + ("" if check else done.stderr)

    def start(self, *command: str, output: Path, host: str = LOGIN) -> subprocess.Popen[bytes]:
        """Start a command on a host in a session of its own; what it prints is added to a file."""
        with output.open("ab") as file:
            return subprocess.Popen(
                self._inside(host, command),
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                env=self._environment({}),
                start_new_session=True,
            )

    def down(self, host: str) -> None:
        """The host dies with everything on it, without a word."""
        for pid in self.pids(host):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self._daemons.pop(host).wait()

    def up(self, host: str) -> None:
        """It comes back."""
        self._daemon(host, host, "slurmd", "-D", "-N", host)

    def state(self, job: str) -> str:
        """Of a job, its first part: PENDING, RUNNING, COMPLETED, ...; as the controller knows it, not the accounting."""
        shown = self.run("scontrol", "--oneliner", "show", "job", job, check=False)
        return next((word.removeprefix("JobState=") for word in shown.split() if word.startswith("JobState=")), "")

    def start_requeued(self, job: str) -> None:
        """Have a job that was requeued start now: Slurm would wait for two minutes."""
        parts = self.run("squeue", "--noheader", "--jobs", job, "--format=%A", check=False).split()
        for part in sorted(set(parts)):
            self.run("scontrol", "update", f"jobid={part}", "starttime=now", check=False)

    def _start(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        for name in ("log", "state", "spool", "sql", "run"):
            (self.folder / name).mkdir()
        for folder in (self.folder, self.folder / "run"):
            folder.chmod(0o755)  # munged refuses others
        self._make_network()
        self._configure()
        self._start_accounting()
        self._daemon("slurmctld", LOGIN, "slurmctld", "-D", "-i")
        self._await(lambda: self._works("scontrol", "ping"), "slurmctld")
        for host in self._names:
            self.up(host)
        self._await(
            lambda: self.run("sinfo", "-h", "-N", "-o", "%T", check=False).split().count("idle") >= self.hosts * 2
        )

    def _start_accounting(self) -> None:
        folder = self.folder
        key, socket = folder / "munge.key", folder / "run" / "munge.socket"
        key.write_bytes(secrets.token_bytes(1024))
        key.chmod(0o400)
        own = [f"--{name}-file={folder}/{place}" for name, place in _MUNGE_FILES.items()]
        self._daemon("munged", LOGIN, "munged", "--foreground", "--force", f"--socket={socket}", *own)
        install = ["mariadb-install-db", "--no-defaults", "--user=root", f"--datadir={folder}/sql", "--skip-test-db"]
        self.run(*install, "--auth-root-authentication-method=socket")
        sql = f"{folder}/run/sql.socket"
        small = ["--innodb-buffer-pool-size=64M", "--innodb-lock-wait-timeout=900"]
        place = [f"--datadir={folder}/sql", f"--socket={sql}", f"--pid-file={folder}/run/mariadbd.pid"]
        address = ["--bind-address=127.0.0.1", "--port=3306"]
        self._daemon("mariadbd", LOGIN, "mariadbd", "--no-defaults", "--user=root", *place, *address, *small)
        client = ["mariadb", "--no-defaults", f"--socket={sql}", "--user=root", "-e"]
        self._await(lambda: self._works(*client, "select 1"), "mariadbd")
        self.run(*client, _GRANTS)
        self._await(socket.exists, "munged")
        self._daemon("slurmdbd", LOGIN, "slurmdbd", "-D")
        self._await(lambda: self._works("sacctmgr", "-n", "show", "cluster"), "slurmdbd")
        self.run("sacctmgr", "-i", "add", "cluster", f"c{self._tag}", check=False)

    def _stop(self) -> None:
        for host in [*self._names, LOGIN]:
            pids = self.pids(host)
            if host == LOGIN:
                self._end_politely("slurmctld", "slurmdbd", "mariadbd", "munged")
                pids = self.pids(host)
            for pid in pids:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            subprocess.run(["ip", "netns", "del", self._namespace(host)], check=False, capture_output=True)
        for daemon in self._daemons.values():
            daemon.wait()
        self._daemons.clear()

    def _end_politely(self, *names: str) -> None:
        for name in names:
            if (daemon := self._daemons.get(name)) is not None:
                daemon.terminate()
                with suppress(subprocess.TimeoutExpired):
                    daemon.wait(20)

    @property
    def _names(self) -> list[str]:
        return [f"n{number}" for number in range(1, self.hosts + 1)]

    @property
    def _tag(self) -> str:
        return f"{zlib.crc32(str(self.folder.resolve()).encode()):x}"  # names of interfaces have 15 characters

    def _namespace(self, host: str) -> str:
        return f"{self._tag}-{host}"

    def pids(self, host: str) -> list[int]:
        """The processes on a host."""
        found = subprocess.run(
            ["ip", "netns", "pids", self._namespace(host)], capture_output=True, text=True, check=False
        )
        return [int(pid) for pid in found.stdout.split()]

    def _make_network(self) -> None:
        login = self._namespace(LOGIN)
        names = ["127.0.0.1 localhost", f"{_address(254)} {LOGIN}"]
        _ip("netns", "add", login)
        _ip("-n", login, "link", "set", "lo", "up")
        _ip("-n", login, "link", "add", "br0", "type", "bridge")
        _ip("-n", login, "addr", "add", f"{_address(254)}/24", "dev", "br0")
        _ip("-n", login, "link", "set", "br0", "up")
        for number, host in enumerate(self._names, start=1):
            own = self._namespace(host)
            _ip("netns", "add", own)
            _ip("-n", own, "link", "set", "lo", "up")
            _ip("-n", own, "link", "add", "eth0", "type", "veth", "peer", "name", f"p{number}", "netns", login)
            _ip("-n", own, "addr", "add", f"{_address(number)}/24", "dev", "eth0")
            _ip("-n", own, "link", "set", "eth0", "up")
            _ip("-n", own, "route", "add", "default", "via", _address(254))
            _ip("-n", login, "link", "set", f"p{number}", "master", "br0", "up")
            names.append(f"{_address(number)} {host}")
        (self.folder / "hosts").write_text("\n".join(names) + "\n")
        (self.folder / "resolv.conf").write_text("nameserver 127.0.0.1\n")  # which refuses at once

    def _configure(self) -> None:
        folder, count = self.folder, self.hosts
        (folder / "slurm.conf").write_text(
            _SLURM_CONF.format(folder=folder, tag=self._tag, login=_address(254), hosts=count, kill_wait=KILL_WAIT_S)
            + f"NodeName=n[1-{count}] CPUs={_CPUS} RealMemory={_MEMORY_MB} State=UNKNOWN\n"
            + "PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP PriorityTier=1\n"
            + "PartitionName=urgent Nodes=ALL MaxTime=INFINITE State=UP PriorityTier=10\n"
        )
        (folder / "slurmdbd.conf").write_text(_SLURMDBD_CONF.format(folder=folder, login=_address(254)))
        (folder / "slurmdbd.conf").chmod(0o600)

    def _daemon(self, name: str, host: str, *command: str) -> None:
        with (self.folder / "log" / f"{name}.out").open("ab") as log:
            self._daemons[name] = subprocess.Popen(
                self._inside(host, command),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=self._environment({}),
                start_new_session=True,
            )

    def _inside(self, host: str, command: Sequence[str]) -> list[str]:
        """A command in the network of a host, with its name, the cluster's /etc/hosts, and no name server.

        One that cannot be reached costs ten seconds at each look-up of an address, and torch's store makes one.
        """
        enter = 'hostname "$0" && mount --bind "$1" /etc/hosts && mount --bind "$2" /etc/resolv.conf'
        enter += ' && shift 2 && exec "$@"'
        return [
            *("nsenter", f"--net=/run/netns/{self._namespace(host)}"),
            *("unshare", "--mount", "--uts", "--propagation", "private"),
            *("bash", "-c", enter, host, str(self.folder / "hosts"), str(self.folder / "resolv.conf"), *command),
        ]

    def _environment(self, more: Mapping[str, str]) -> dict[str, str]:
        inherited = {name: value for name, value in os.environ.items() if not name.startswith(("SLURM_", "SBATCH_"))}
        return {**inherited, "PATH": _path(), "SLURM_CONF": str(self.folder / "slurm.conf"), **more}

    def _works(self, *command: str) -> bool:
        done = subprocess.run(self._inside(LOGIN, command), capture_output=True, env=self._environment({}), check=False)
        return done.returncode == 0

    def _await(self, condition: Callable[[], bool], what: str = "the hosts") -> None:
        deadline = time.monotonic() + _STARTS_S
        while not condition():
            if time.monotonic() > deadline:
                raise TimeoutError(f"{what} did not start within {_STARTS_S:g} s; see {self.folder}/log")
            time.sleep(_POLL_S)


def _address(number: int) -> str:
    return f"10.78.0.{number}"


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True)


_MUNGE_FILES = {"key": "munge.key", "pid": "run/munged.pid", "log": "log/munged.log", "seed": "munge.seed"}
_GRANTS = (
    "create database slurm; create user slurm@localhost identified by 'slurm'; "
    "create user slurm@'127.0.0.1' identified by 'slurm'; "
    "grant all on slurm.* to slurm@localhost; grant all on slurm.* to slurm@'127.0.0.1'"
)
_SLURM_CONF = """\
ClusterName=c{tag}
SlurmctldHost=login({login})
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/run/munge.socket
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool/%n
SlurmctldPidFile={folder}/run/slurmctld.pid
SlurmdPidFile={folder}/run/%n.pid
SlurmctldLogFile={folder}/log/slurmctld.log
SlurmdLogFile={folder}/log/%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU_Memory
SchedulerType=sched/backfill
SchedulerParameters=bf_interval=1,batch_sched_delay=1
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
SlurmctldTimeout=10
SlurmdTimeout=10
KillWait={kill_wait}
MessageTimeout=10
ReturnToService=2
MpiDefault=none
SwitchType=switch/none
SlurmdParameters=config_overrides
AccountingStorageType=accounting_storage/slurmdbd
AccountingStorageHost=login
AccountingStoragePass={folder}/run/munge.socket
JobAcctGatherType=jobacct_gather/linux
JobAcctGatherFrequency=5
"""
_SLURMDBD_CONF = """\
AuthType=auth/munge
AuthInfo=socket={folder}/run/munge.socket
DbdHost=login
DbdAddr={login}
SlurmUser=root
LogFile={folder}/log/slurmdbd.log
PidFile={folder}/run/slurmdbd.pid
StorageType=accounting_storage/mysql
StorageHost=127.0.0.1
StoragePort=3306
StorageLoc=slurm
StorageUser=slurm
StoragePass=slurm
"""
