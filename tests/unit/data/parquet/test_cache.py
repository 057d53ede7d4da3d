import threading
from functools import partial

import numpy as np
import pytest

from dlrm.data.parquet.cache import GroupCache
from dlrm.data.parquet.decode import DecodedGroup


def group(nbytes: int) -> DecodedGroup:
    """A group of this many bytes, a multiple of 4."""
    empty = np.empty((0, 0), np.float32)
    return DecodedGroup(empty, np.empty((0, 0), np.int32), np.zeros(nbytes // 4, np.float32), None)


def test_the_group_that_was_not_asked_for_longest_goes_first():
    cache, made = GroupCache(30), []

    def ask(key):
        return cache.get(key, 10 - 2, lambda: made.append(key) or group(8))

    for key in ("a", "b", "c", "a", "d", "a", "b"):
        ask(key)
    assert made == ["a", "b", "c", "d", "b"]
    assert cache.bytes_kept == 24


def test_what_does_not_fit_is_given_but_not_kept():
    cache = GroupCache(10)
    assert cache.get("a", 8, lambda: group(40)).nbytes == 40
    assert cache.bytes_kept == 0


def test_room_is_made_before_a_group_is_decoded():
    cache, seen = GroupCache(20), []
    for key in range(4):
        cache.get(key, 8, lambda: seen.append(cache.bytes_kept) or group(8))
    assert seen == [8, 16, 16, 16]


def test_an_error_reaches_everyone_who_waits_and_the_next_asks_anew():
    cache, started, may_fail = GroupCache(100), threading.Event(), threading.Event()
    errors: list[str] = []

    def fail() -> DecodedGroup:
        started.set()
        may_fail.wait(10)
        raise ValueError("torn")

    def ask(decode) -> None:
        try:
            cache.get("a", 8, decode)
        except ValueError as error:
            errors.append(str(error))

    first = threading.Thread(target=ask, args=(fail,))
    first.start()
    assert started.wait(10)
    second = threading.Thread(target=ask, args=(partial(pytest.fail, "the second must wait for the first"),))
    second.start()
    may_fail.set()
    first.join(10)
    second.join(10)
    assert errors == ["torn", "torn"]
    assert cache.bytes_kept == 0
    assert cache.get("a", 8, lambda: group(8)).nbytes == 8


def test_a_group_that_is_being_decoded_is_not_let_go_of():
    cache, started, may_end, made = GroupCache(10), threading.Event(), threading.Event(), []

    def slow() -> DecodedGroup:
        made.append("slow")
        started.set()
        may_end.wait(10)
        return group(8)

    thread = threading.Thread(target=lambda: cache.get("slow", 8, slow))
    thread.start()
    assert started.wait(10)
    cache.get("other", 8, lambda: group(8))
    asker = threading.Thread(target=lambda: cache.get("slow", 8, slow))
    asker.start()
    may_end.set()
    thread.join(10)
    asker.join(10)
    assert made == ["slow"]
