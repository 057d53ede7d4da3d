"""What ``scripts/load_server.py`` finds wrong; the measuring itself needs minutes and a machine."""

import copy

import pytest

from scripts.load_server import growth, problems_of

PHASE = {"statuses": {"200": 100}, "latency_ms": {"p99": 10.0}, "refused_ms": None, "sent_late_p99_ms": 1.0}
GOOD = {
    "bound_ms": 25.0,
    "steady": PHASE,
    "overload": PHASE | {"statuses": {"200": 50, "503": 49, "504": 1}, "refused_ms": {"p99": 900.0}},
    "recovery": PHASE,
    "memory_mib": [(float(second), 500.0 + (second < 5) * -200) for second in range(20)],
    "server_exit_code": 0,
}


def problems(**changed):
    result = copy.deepcopy(GOOD)
    for key, value in changed.items():
        result[key] = result[key] | value if isinstance(value, dict) else value
    return problems_of(result, timeout_ms=1000.0, most_growth=0.05)


def test_a_good_run_has_none():
    assert problems() == []


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"steady": {"statuses": {"200": 99, "503": 1}}}, "steady: "),
        ({"recovery": {"statuses": {"200": 99, "504": 1}}}, "recovery: "),
        ({"recovery": {"statuses": {}}}, "recovery: "),
        ({"overload": {"statuses": {"200": 1, "lost (ServerDisconnectedError)": 1}}}, "lost"),
        ({"overload": {"statuses": {"200": 1, "500": 1}}}, "overload: 500"),
        ({"overload": {"refused_ms": None}}, "nothing was refused"),
        ({"overload": {"refused_ms": {"p99": 1600.0}}}, "refusals came after 1600.0 ms"),
        ({"recovery": {"latency_ms": {"p99": 30.0}}}, "recovery: 30.0 ms"),
        ({"overload": {"sent_late_p99_ms": 60.0}}, "overload: the load fell behind"),
        ({"memory_mib": [(float(second), 500.0 + 3 * second) for second in range(20)]}, "memory grew by 5.8%"),
        ({"server_exit_code": 143}, "ended with 143"),
    ],
)
def test_each_fault_is_said(changed, said):
    (problem,) = problems(**changed)
    assert said in problem


def test_memory_is_judged_after_it_was_warmed():
    assert growth([(0.0, 100.0)] * 7) == 0.0
    assert growth([(0.0, size) for size in (1.0, 1.0, 2.0, 2.0, 2.0, 2.0, 3.0, 3.0)]) == 0.5
