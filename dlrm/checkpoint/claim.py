"""Which job writes a folder of checkpoints: one at a time, without locks, which not every file system has, and no store.

A job *claims* the folder with a small file in it, ``owner.<token>.<beat>.json``, that says who the job is. While it lives,
about every :data:`BEAT_S` the file is replaced by one with the next beat. A claim is no obstacle when its process is surely
dead, when it is of the same job (its launcher has started the ranks again, its scheduler has queued it again), or when it
has not changed for :data:`WATCH_S`. A job that was only asleep so long finds before its next save that its claim is gone,
and stops. What remains is the moment between that look and the end of the save.
"""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

from dlrm.checkpoint.names import claim_name, claim_of, new_token
from dlrm.checkpoint.owner import process_lives, this_process
from dlrm.checkpoint.storage import Storage, names_if_there, storage_errors
from dlrm.distributed.job import this_job
from dlrm.errors import ConfigError
from dlrm.format import local_time

BEAT_S = 15.0
WATCH_S = 90.0
"""More than a beat and what NFS keeps of a folder's names (60 s, acdirmax)."""
_ALIVE_PATIENCE_S = 10.0  # a job that was told to end may take a moment
_LOOK_S = 1.0
_END_PATIENCE_S = 5.0  # with a beat that is being written
_MAX_BYTES = 10_000
_ANOTHER = "wait for it to end, or use another run.name"

Beats = dict[str, int]
"""The latest beat of each claim, by token."""


class Claim:
    """A job's claim of a folder, for its rank 0.

    Args:
        storage, folder: of the run's checkpoints.
        launchers: what the job's launchers are known by (:func:`~dlrm.checkpoint.owner.process_mark`).
        say: told that the claim of another job is watched, or that this one's could not be written.
    """

    def __init__(self, storage: Storage, folder: str, launchers: Sequence[str], say: Callable[[str], None]) -> None:
        self._storage, self._folder, self._say = storage, folder, say
        self._token, self._beat = new_token(), 0
        who = {"host": socket.gethostname(), "since": time.time(), "launchers": list(launchers), "job": _this_job()}
        self._who = {**json.loads(this_process()), **who}
        self._written: list[str] = []
        self._over: Beats = {}  # claims that do not count any more, should they not have been removed
        self._lost = False
        self._watched: str | None = None
        self._ended = threading.Event()
        self._beating = threading.Thread(target=self._keep, name="claim of checkpoints", daemon=True)

    def take(self, watch_s: float = WATCH_S) -> None:
        """Claim the folder; waits up to ``watch_s`` where nobody can tell whether another job still lives.

        Raises:
            ConfigError: another job has it.
            CheckpointError: the folder cannot be listed.
        """
        self._await_others(watch_s)
        try:
            with suppress(FileExistsError):
                self._storage.make_folder(self._folder)
            self._write()
        except OSError as error:  # nor can checkpoints be written, of which it is for the saves to speak
            self._say(f"warning: {self._folder}: {error.strerror or error}; another job that uses it is not kept out")
        if others := self._others():  # they came at the same time
            self.release()
            raise self._refused(next(iter(others)))
        self._beating.start()

    def check(self) -> None:
        """See that no other job has the folder, before something is written to it.

        Raises:
            ConfigError: one has, or had.
            CheckpointError: the folder cannot be listed.
        """
        if others := self._others():
            raise self._refused(next(iter(others)))
        if self._lost:
            problem = f"another job has taken {self._folder} over, or the mark of this one in it was removed"
            raise ConfigError.at("run.name", f"{problem}; nothing more is saved there: use a run.name for each job")

    def release(self) -> None:
        """Give the folder back."""
        self._ended.set()
        if self._beating.is_alive():
            self._beating.join(timeout=_END_PATIENCE_S)
        self._remove(self._written)

    def _await_others(self, watch_s: float) -> None:
        began, first = time.monotonic(), Beats()
        while others := self._others():
            waited_s = time.monotonic() - began
            stay = [token for token, beat in others.items() if not self._is_over(token, beat, waited_s >= watch_s)]
            for token in stay:
                who = self._read(token, others[token])
                alive = who is not None and process_lives(who)
                if others[token] != first.setdefault(token, others[token]):
                    raise self._refused(token)
                if alive and waited_s >= min(_ALIVE_PATIENCE_S, watch_s):
                    raise self._refused(token)
                if not alive and self._watched is None:
                    self._watched = token
                    self._say(
                        f"{self._folder} was left by {_in_words(who)}; watching for {watch_s:.0f} s whether it lives"
                    )
            if stay:
                time.sleep(min(_LOOK_S, watch_s))

    def _is_over(self, token: str, beat: int, watched: bool) -> bool:
        """Whether a claim is no obstacle; if so it counts no more."""
        who = self._read(token, beat)
        lives = None if who is None else process_lives(who)
        over = (who is not None and self._is_same_job(who)) or lives is False or (watched and not lives)
        if over:
            self._over[token] = beat
            self._remove([claim_name(token, earlier) for earlier in (beat - 1, beat) if earlier >= 0])
        return over

    def _others(self) -> Beats:
        """Claims of other jobs that count."""
        found = Beats()
        with storage_errors(self._folder):
            for name in names_if_there(self._storage, self._folder):
                token, beat = claim_of(name) or (self._token, 0)
                if token != self._token:
                    found[token] = max(beat, found.get(token, 0))
        return {token: beat for token, beat in found.items() if self._over.get(token) != beat}

    def _read(self, token: str, beat: int) -> dict[str, Any] | None:
        """Who a claim says that it is; nothing where that is no JSON, None where the claim is gone."""
        try:
            found = json.loads(self._storage.read(f"{self._folder}/{claim_name(token, beat)}", 0, _MAX_BYTES))
        except FileNotFoundError:
            return None
        except (OSError, ValueError, RecursionError):
            return {}
        return found if isinstance(found, dict) else {}

    def _refused(self, token: str) -> ConfigError:
        beats = self._others()
        who = self._read(token, beats[token]) if token in beats else None
        message = f"{self._folder} is written by {_in_words(who)}; {_ANOTHER}"
        return ConfigError.at("run.name", message)

    def _is_same_job(self, who: dict[str, Any]) -> bool:
        launchers, job, here = who.get("launchers"), who.get("job"), self._who["job"]
        if isinstance(launchers, list) and any(mark in self._who["launchers"] for mark in launchers):
            return True
        if all(who.get(key) == self._who[key] for key in ("place", "pid", "started")) and who["place"] is not None:
            return True  # this process has trained before, and failed
        # Started again: the scheduler has ended what ran before. Parts of one attempt may run side by side.
        return isinstance(job, list) and len(job) == 2 and here is not None and job[0] == here[0] and job != here

    def _write(self) -> None:
        name = claim_name(self._token, self._beat)
        self._beat += 1
        self._storage.put(f"{self._folder}/{name}", json.dumps(self._who).encode())
        self._written.append(name)

    def _keep(self) -> None:
        while not self._ended.wait(BEAT_S):
            with suppress(OSError):  # the next beat tries again
                if self._written and not self._is_there(self._written[-1]):
                    self._lost = True
                    return
                self._write()
                self._remove(self._written if self._ended.is_set() else self._written[:-1])

    def _is_there(self, name: str) -> bool:
        try:
            self._storage.size(f"{self._folder}/{name}")
        except FileNotFoundError:
            return False
        return True

    def _remove(self, names: Sequence[str]) -> None:
        for name in list(names):
            try:
                self._storage.remove_file(f"{self._folder}/{name}")
            except FileNotFoundError:
                pass
            except OSError:
                continue
            if name in self._written:
                self._written.remove(name)


def _this_job() -> list[str] | None:
    """The scheduler's job that this process is in, and which attempt at it this is."""
    job = this_job()
    return [job.id, job.attempt] if job.id else None


def _in_words(who: dict[str, Any] | None) -> str:
    host, pid, since = (who or {}).get("host"), (who or {}).get("pid"), (who or {}).get("since")
    if not isinstance(host, str) or type(pid) is not int or type(since) is not float:
        return "another job"
    with suppress(OverflowError, ValueError, OSError):
        return f"another job (host {ascii(host)[1:-1][:80]}, pid {pid}, since {local_time(since)})"
    return "another job"
