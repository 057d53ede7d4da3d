"""Large bodies that wait for threads: bounded by time, none is parsed for nobody."""

import asyncio
import threading
import time

import pytest

from dlrm.inference.serve import parsing
from dlrm.inference.serve.parsing import Parsing
from dlrm.inference.serve.refusal import Refusal
from dlrm.inference.serve.waiting import ExpiredError

FAR_S = 1e12


def test_what_is_refused_or_wrong_is_raised_and_counts_no_longer():
    async def main():
        parser = Parsing(1.0)
        for _ in range(3):
            with pytest.raises(Refusal) as caught:
                await parser.features(
                    10, FAR_S, *asked(lambda *_: (_ for _ in ()).throw(Refusal(422, "bad_rows", "no")))
                )
            assert caught.value.status == 422
        assert await parser.features(10, FAR_S, *asked(lambda *_: "features")) == "features"
        assert parser._waiting_bytes == 0

    asyncio.run(main())


def test_a_body_that_would_wait_too_long_is_refused_at_once_and_taken_again_later():
    free = threading.Event()

    def slow(*_):
        assert free.wait(60)
        time.sleep(0.02)
        return "features"

    async def main():
        parser = Parsing(0.05)
        free.set()
        await parser.features(1000, FAR_S, *asked(slow))  # from now on 1,000 bytes are known to take 4 ms at least
        free.clear()
        tasks = [asyncio.ensure_future(parser.features(50_000, FAR_S, *asked(slow)))]
        await asyncio.sleep(0)
        with pytest.raises(Refusal) as caught:
            await parser.features(10, FAR_S, *asked(slow))
        assert caught.value.status == 503
        assert caught.value.retry_after_s
        free.set()
        assert await tasks[0] == "features"
        assert await parser.features(10, FAR_S, *asked(slow)) == "features"

    asyncio.run(main())


def test_a_body_whose_time_is_over_is_not_parsed():
    parsed = []

    async def main():
        parser = Parsing(1.0)
        with pytest.raises(ExpiredError):
            await parser.features(10, time.monotonic() - 1, *asked(lambda *_: parsed.append(1)))

    asyncio.run(main())
    assert not parsed


def asked(parse):
    return parse, b"", None, 1


@pytest.fixture(autouse=True)
def _calls_what_it_is_given(monkeypatch):
    monkeypatch.setattr(parsing, "features_of", lambda parse, *others: parse(*others))
