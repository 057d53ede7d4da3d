import pytest

from dlrm.scaling.report.accuracy import accuracy_of, prediction, published
from dlrm.scaling.report.points import Point
from dlrm.scaling.table import MEASURED, PREDICTED, PUBLISHED, Spread


def point(name, ranks, truth, predicted, source=MEASURED):
    found = Point("e", name, 1, ranks, 100 * ranks)
    for key, value in ((source, truth), (PREDICTED, predicted)):
        if value is not None:
            found.throughput[key] = Spread(value, value, value)
    return found


def test_the_error_is_a_median_and_order_is_counted_over_pairs_of_as_many_ranks():
    points = [
        point("a", 2, 100.0, 110.0),
        point("b", 2, 200.0, 210.0),  # slower than it is, but still the faster
        point("c", 2, 150.0, 220.0),  # taken for the fastest
        point("d", 4, 10.0, 10.0),  # alone
        point("e", 4, None, 10.0),
    ]
    found = accuracy_of(points)
    assert len(found.points) == 4
    assert found.median_error == pytest.approx((0.05 + 0.1) / 2)
    assert (found.in_order, found.pairs) == (2, 3)


def test_points_that_are_measured_as_equally_fast_have_no_order():
    assert accuracy_of([point("a", 2, 5.0, 1.0), point("b", 2, 5.0, 2.0)]).pairs == 0


def test_misses_beyond_a_fifth_are_named_the_worst_first():
    points = [point("near", 2, 100.0, 119.0), point("slow", 2, 100.0, 75.0), point("fast", 2, 100.0, 150.0)]
    notes = prediction(points, []).notes
    assert [note.split(":")[0] for note in notes[1:]] == ["fast", "slow"]
    assert "(+50.0%)" in notes[1]
    assert "(-25.0%)" in notes[2]
    assert prediction(points[:1], []).notes[1] == "No prediction misses by more than 20%."


def test_of_very_many_misses_the_worst_are_named_and_the_others_counted():
    points = [point(f"p{number}", number + 1, 100.0, 200.0 + number) for number in range(100)]
    notes = prediction(points, []).notes
    assert len(notes) == 32
    assert notes[1].startswith("p99:")
    assert notes[-1].startswith("and 70 more")


def test_what_is_lacking_is_said():
    assert prediction([point("a", 2, 1.0, None)], []).why == "no point has both a measured and a predicted throughput"
    assert published([point("a", 2, 1.0, 1.0)], []).why == "the table has no published results"
    assert published([point("a", 2, 1.0, None, PUBLISHED)], []).why == "no published point has a prediction"
    assert (
        published([point("a", 2, 1.0, 1.3, PUBLISHED)], []).notes[1].startswith("a: predicted 1 samples/s, published")
    )
