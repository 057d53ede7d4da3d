import time

import pytest

from dlrm import activity


@pytest.fixture(autouse=True)
def _starting():
    activity.begin(activity.STARTING, 0)
    yield
    activity.begin(activity.STARTING, 0)


def test_what_is_done_inside_of_a_block_is_no_longer_done_after_it():
    activity.begin(activity.TRAINING, 3)
    with activity.during(activity.EVALUATING):
        assert (activity.now.doing, activity.now.step) == ("evaluating", 3)
    assert activity.now.doing == "training"
    with pytest.raises(ValueError, match="boom"), activity.during(activity.SAVING):
        raise ValueError("boom")
    assert activity.now.doing == "training"


def test_whoever_waits_for_an_item_is_reading_and_got_on_when_it_comes():
    seen = []

    def items():
        for item in range(3):
            seen.append(activity.now.doing)
            time.sleep(0.01)
            yield item

    activity.begin(activity.TRAINING)
    for item in activity.Awaited(items()):
        seen.append(activity.now.doing)
        assert time.monotonic() - activity.now.progress_s < 0.01 + item
    assert seen == ["waiting for data", "training"] * 3
    assert activity.now.doing == "training"


def test_an_item_that_cannot_be_read_leaves_the_activity_at_reading():
    def items():
        raise ValueError("boom")
        yield

    with pytest.raises(ValueError, match="boom"):
        next(activity.Awaited(items()))
    assert activity.now.doing == "waiting for data"
