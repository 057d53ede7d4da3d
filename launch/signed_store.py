"""What launchers say to each other, signed with the job's secret.

Launchers meet in a TCPStore of torch, which anyone who reaches its port can write to, and torch's rendezvous unpickles
what lies there. Here each value is stored behind a keyed hash (HMAC-SHA256) of the job's id, the key and the value, and
what does not carry the right one is never read. ``add`` counts only and ``wait`` asks only whether a key is there: these
are not signed; a stranger can end or delay a job by them, or by writing back what was valid earlier, but not more.

The secret of a job over several hosts comes in the environment variable DLRM_JOB_SECRET, the same on all hosts; a job on
one host makes its own. Ranks get it as well and sign what they pickle for each other (dlrm/distributed/collectives.py).
"""

from __future__ import annotations

import hmac
import io
import os
import pickle
import queue
import secrets
import threading
import time
from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Any

from telling import WHAT_NEXT, LaunchError, Waiting
from torch.distributed import Store, TCPStore  # type: ignore[attr-defined]
from torch.distributed.elastic.rendezvous import dynamic_rendezvous

SECRET_VARIABLE = "DLRM_JOB_SECRET"
SHORTEST_SECRET = 16  # characters
HOW_TO_MAKE_ONE = f"export {SECRET_VARIABLE}=$(openssl rand -hex 32), the same on all hosts"
_DIGEST = "sha256"
_DIGEST_BYTES = 32
_LONGEST_PAUSE_S = 0.5


def job_secret(*, hosts: int) -> str:
    """The secret of this job, empty if it runs on several hosts and none was given.

    Raises:
        LaunchError: the one in the environment is too short to be one.
    """
    given = os.environ.get(SECRET_VARIABLE, "")
    if given and len(given) < SHORTEST_SECRET:
        line = f"{SECRET_VARIABLE} has {len(given)} characters, {SHORTEST_SECRET} are the fewest; {HOW_TO_MAKE_ONE}"
        raise LaunchError(line, exit_code=2)
    return given or ("" if hosts > 1 else secrets.token_hex(32))


class SignedStore(Store):
    """A store that reads and writes signed values in another one.

    Args:
        store: to keep them in.
        where: it is, for messages.
        secret: of the job.
        job: its id (``--rdzv-id``).
        watch: called with keys that are not there yet, now and then; says in words what they are, or raises.
    """

    def __init__(
        self, store: TCPStore, *, where: str, secret: str, job: str, watch: Callable[[Sequence[str]], str]
    ) -> None:
        super().__init__()
        self._store = store
        self._where = where
        self._secret = secret.encode()
        self._job = job
        self._watch = watch
        self._asked: queue.SimpleQueue[_Question] = queue.SimpleQueue()
        self.set_timeout(store.timeout)
        threading.Thread(target=_answer, args=(store, self._asked), name="store", daemon=True).start()

    def set(self, key: str, value: str | bytes) -> None:
        """Store a value."""
        self._ask("set", key, self._signed(key, value))

    def get(self, key: str) -> bytes:
        """The value, when it is there.

        Raises:
            LaunchError: nobody who knows the secret wrote it, it did not come in time, or the store does not answer; so
                do the other methods.
        """
        self.wait([key])
        return self._verified(key, self._ask("get", key))

    def compare_set(self, key: str, expected: str | bytes, desired: str | bytes) -> bytes:
        """Replace a value if it is the expected one (empty: if there is none), and return what is there then."""
        signed_expected = self._signed(key, expected) if expected else ""
        return self._verified(key, self._ask("compare_set", key, signed_expected, self._signed(key, desired)))

    def multi_set(self, keys: Sequence[str], values: Sequence[str | bytes]) -> None:
        """Store several values."""
        for key, value in zip(keys, values, strict=True):
            self.set(key, value)

    def multi_get(self, keys: Sequence[str]) -> list[bytes]:
        """Several values, when all are there."""
        return [self.get(key) for key in keys]

    def add(self, key: str, amount: int) -> int:
        """Count; not signed."""
        return int(self._ask("add", key, amount))

    def check(self, keys: Sequence[str]) -> bool:
        """Whether all keys are there."""
        return bool(self._ask("check", list(keys)))

    def wait(self, keys: Sequence[str], timeout: timedelta | None = None) -> None:
        """Return when all keys are there; ``timeout`` is that of the store if left out."""
        limit_s = (timeout or self.timeout).total_seconds()
        waiting = Waiting(limit_s)
        pause_s = 0.01
        while not self.check(keys):
            if waiting.over:
                raise LaunchError(f"another host did not answer within {limit_s:g} s (nothing under {', '.join(keys)})")
            waiting.say(self._watch(keys))
            time.sleep(pause_s)
            pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)

    def _ask(self, method: str, *arguments: Any) -> Any:
        """The answer of the store, within its timeout, whatever becomes of it; signals are handled meanwhile."""
        question = _Question(method, arguments)
        self._asked.put(question)
        limit_s = self.timeout.total_seconds()
        if not question.is_answered.wait(limit_s):
            raise LaunchError(f"{self._lost()}: no answer within {limit_s:g} s (--rdzv-conf read_timeout); {WHAT_NEXT}")
        if isinstance(question.error, RuntimeError):  # torch's DistError is one; other versions raise it plain
            raise LaunchError(f"{self._lost()}: its launcher or its network is gone; {WHAT_NEXT}") from question.error
        if question.error is not None:
            raise question.error
        return question.answer

    def _lost(self) -> str:
        return f"lost the first host ({self._where}, where the hosts meet)"

    def _signed(self, key: str, value: str | bytes) -> Any:
        """What to store, as bytes, which the store's methods take although they are annotated to take str."""
        raw = value.encode() if isinstance(value, str) else value
        return self._digest(key, raw) + raw

    def _verified(self, key: str, found: bytes) -> bytes:
        digest, raw = found[:_DIGEST_BYTES], found[_DIGEST_BYTES:]
        if not hmac.compare_digest(digest, self._digest(key, raw)):
            raise LaunchError(
                f"what lies at {self._where}, where the hosts meet, was not written by a launcher of this job ({key}): "
                f"{SECRET_VARIABLE} differs between the hosts, another job uses that port, or a stranger reaches it",
                exit_code=2,
            )
        return raw

    def _digest(self, key: str, raw: bytes) -> bytes:
        parts = (self._job.encode(), key.encode(), raw)
        message = b"".join(len(part).to_bytes(8, "big") + part for part in parts)
        return hmac.digest(self._secret, message, _DIGEST)


class _Question:
    """A call of a method of the store, and what came of it."""

    def __init__(self, method: str, arguments: Sequence[Any]) -> None:
        self.method, self.arguments = method, arguments
        self.answer: Any = None
        self.error: Exception | None = None
        self.is_answered = threading.Event()


def _answer(store: TCPStore, asked: queue.SimpleQueue[_Question]) -> None:
    """Ask the store, one question after the other: a thread that waits in C++ for a host that is gone handles no signal."""
    while True:
        question = asked.get()
        try:
            question.answer = getattr(store, question.method)(*question.arguments)
        except Exception as error:  # who has asked raises it
            question.error = error
        question.is_answered.set()


class _StateUnpickler(pickle.Unpickler):
    """Knows what the state of a rendezvous is made of, and nothing that could do harm."""

    def find_class(self, module: str, name: str) -> Any:
        plain = {("datetime", "datetime"), ("datetime", "timezone"), ("datetime", "timedelta"), ("builtins", "set")}
        own = module == dynamic_rendezvous.__name__ and name in ("_RendezvousState", "_NodeDesc")
        if not own and (module, name) not in plain:
            raise LaunchError(
                f"the state of the rendezvous names {module}.{name}, which has no place there", exit_code=2
            )
        return super().find_class(module, name)


def checked_state(state: bytes) -> Any:
    """The state of the rendezvous, which torch pickles and unpickles; whatever else the bytes may hold is refused.

    Raises:
        LaunchError: it is no such state.
    """
    try:
        return _StateUnpickler(io.BytesIO(state)).load()
    except LaunchError:
        raise
    except Exception as error:  # pickle promises no particular one
        line = f"the state of the rendezvous cannot be read ({type(error).__name__}: {error})"
        raise LaunchError(line, exit_code=2) from error
