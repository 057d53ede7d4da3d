"""Checkpoints of runs in any storage, and stores that fail between any two requests."""

import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from unittest import mock

from botocore.awsrequest import AWSResponse
from botocore.exceptions import ConnectionClosedError, EndpointConnectionError
from botocore.httpsession import URLLib3Session

from dlrm.checkpoint.names import checkpoint_name
from dlrm.checkpoint.resume import load_newest
from dlrm.checkpoint.save import Destination, commit, prepare, write_rank
from dlrm.checkpoint.snapshot import Snapshots
from dlrm.distributed.collectives import OneProcess
from tests.support.storage_faults import Killed
from tests.unit.checkpoint.states import State, blank, cut_up, gathered, random_state

SHAPES = {"table": ((40, 8), "float32"), "momentum": ((40,), "float32"), "step": ((), "int64")}
PART_BYTES = 5 << 20
"""The smallest part of an upload that S3 takes."""
RANKS = 2


def destinations(storage, folder, step, token, world_size=RANKS):
    final = f"{folder}/{checkpoint_name(step)}"
    return [Destination(storage, final, step, token, rank, world_size) for rank in range(world_size)]


def save_by_threads(storage, folder, step, ranks):
    """Save as ranks in one process, each in its thread; rank 0 waits for the others through the storage."""
    every = destinations(storage, folder, step, prepare(storage, folder, step), len(ranks))

    def save(destination):
        write_rank(destination, Snapshots(destination.rank, len(ranks)).snapshot(ranks[destination.rank]))
        return commit(destination, {"step": step}, time_limit_s=20) if destination.rank == 0 else None

    with ThreadPoolExecutor(len(ranks)) as threads:
        manifests = list(threads.map(save, every))
    return manifests[0]


class Run:
    """A run's folder with a good checkpoint of step 1, and the states that the steps had."""

    def __init__(self, storage, folder: str, seed: int = 0) -> None:
        self.storage, self.folder, self.seed = storage, folder, seed
        self.states: dict[int, State] = {}
        self.save(1)

    def save(self, step: int) -> None:
        """Rank after rank, so that the requests come in one order."""
        self.states[step] = random_state(self.seed * 1000 + step, SHAPES)
        ranks = cut_up(self.states[step], self.seed + step, RANKS)
        every = destinations(self.storage, self.folder, step, prepare(self.storage, self.folder, step))
        for destination in every:
            write_rank(destination, Snapshots(destination.rank, RANKS).snapshot(ranks[destination.rank]))
        commit(every[0], {}, time_limit_s=5)

    def loaded_step(self) -> int:
        """Resume and return the step; it has to have the bits of that step's state."""
        ranks = cut_up(blank(self.states[1]), self.seed + 77, 1)
        found = load_newest(self.folder, ranks[0], OneProcess(), storage=self.storage).checkpoint
        assert found is not None, "no good checkpoint is left"
        assert gathered(ranks).same_bits_as(self.states[found.step]), "wrong bytes were loaded"
        return found.step


KINDS = ("killed before", "killed after", "answer lost", "down")
"""The process dies before the n-th request, or after it; the store did it and the answer is lost, once; no request from the
n-th on reaches the store."""


class Requests:
    """Stands for botocore's connections and counts what is sent through them; the request number ``at`` fails."""

    def __init__(self, at: int, kind: str) -> None:
        self.at, self.kind, self.count, self.lock = at, kind, 0, threading.Lock()
        self.real = URLLib3Session.send

    @property
    def hit(self) -> bool:
        return 0 <= self.at < self.count

    def send(self, session, request):
        with self.lock:
            number, self.count = self.count, self.count + 1
        if self.at < 0 or number < self.at:
            return self.real(session, request)
        if self.kind == "down":
            raise EndpointConnectionError(endpoint_url=request.url)
        if self.kind == "answer lost":
            answer = self.real(session, request)
            if number == self.at:
                raise ConnectionClosedError(endpoint_url=request.url)
            return answer
        if number == self.at and self.kind == "killed after":
            self.real(session, request)
        raise Killed


@contextmanager
def failing_requests(at: int = -1, kind: str = "down"):
    """Let S3 fail for the duration of the block; without ``at`` only count the requests."""
    requests = Requests(at, kind)
    with (
        mock.patch.object(URLLib3Session, "send", lambda session, request: requests.send(session, request)),
        mock.patch("botocore.endpoint.time.sleep"),  # the pauses between attempts
        mock.patch(
            "botocore.retries.quota.RetryQuota.acquire", return_value=True
        ),  # no end of attempts over many faults
    ):
        yield requests


class _Body:
    def __init__(self, text: str) -> None:
        self._text = text

    def stream(self, **_):
        yield self._text.encode()


def _error(request, status: int, code: str) -> AWSResponse:
    body = f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>words</Message></Error>"
    return AWSResponse(request.url, status, {}, _Body(body))


@contextmanager
def refused_requests(code: str):
    """Let S3 answer every request with an error."""
    status = 503 if code == "SlowDown" else 403

    def refuse(session, request):
        return _error(request, status, code)

    with mock.patch.object(URLLib3Session, "send", refuse), mock.patch("botocore.endpoint.time.sleep"):
        yield


@contextmanager
def a_lesser_store():
    """Let S3 know neither conditions nor lists of unfinished uploads; yield what was refused."""
    real, refused = URLLib3Session.send, []

    def send(session, request):
        if "If-None-Match" in request.headers or request.url.endswith("uploads") or "uploads&" in request.url:
            refused.append(request.url)
            return _error(request, 501, "NotImplemented")
        return real(session, request)

    with mock.patch.object(URLLib3Session, "send", send):
        yield refused
