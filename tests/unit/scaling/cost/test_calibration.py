"""Files of calibrations: what is read is what was written, and what cannot be is said in a line."""

import json
import math

import pytest

from dlrm.errors import ConfigError
from dlrm.scaling.cost.calibration import VERSION, Calibration, Entry
from dlrm.scaling.cost.rates import Link
from tests.unit.scaling.cost.machines import COLLECTIVES, GB, US, rates


def entry(ranks, per_host=None, *, latency_us=2.0, gb_s=1.0, crowding=1.0, **changed):
    links = {name: Link(latency_us * US, gb_s * GB) for name in COLLECTIVES} if ranks > 1 else {}
    own = None if changed.get("rates", 0) is None else rates(cores=8.0, **changed)
    return Entry(ranks, per_host or ranks, own, links, crowding)


WHOLE = Calibration(
    "CPU", (entry(1, step_s=0.5), entry(2), entry(8, rates=None, crowding=1.5)), {"products": 1.5}, 0.1, {"torch": "2"}
)


def test_what_is_read_is_what_was_written(tmp_path):
    path = tmp_path / "calibration.json"
    WHOLE.write(path)
    assert Calibration.read(path) == WHOLE
    Calibration("CPU", ()).write(path)
    assert Calibration.read(path) == Calibration("CPU", ())
    assert [one.name for one in tmp_path.iterdir()] == ["calibration.json"]


def test_what_cannot_be_written_leaves_what_was_there(tmp_path):
    path = tmp_path / "calibration.json"
    WHOLE.write(path)
    with pytest.raises(TypeError):
        Calibration("CPU", (), environment={"no json": {1, 2}}).write(path)
    with pytest.raises(FileNotFoundError):
        WHOLE.write(tmp_path / "nowhere" / "calibration.json")
    assert Calibration.read(path) == WHOLE


def changed(where, value):
    """The file with something else at a place, or without it."""

    def change(told):
        *parents, last = where
        for name in parents:
            told = told[name]
        if value is None:
            del told[last]
        else:
            told[last] = value

    return change


RATES_OF_1 = ("entries", 0, "rates")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (changed(["format"], "dlrm-plan"), f"is no calibration of version {VERSION}"),
        (changed(["format"], None), f"is no calibration of version {VERSION}"),
        (changed(["version"], 99), f"is no calibration of version {VERSION}"),
        (changed(["name"], 3), "name: "),
        (changed(["entries"], {}), "entries: "),
        (changed(["entries"], None), "entries: Field required"),
        (changed(["entries", 0], "x"), "entries.0: "),
        (changed(["entries", 0, "ranks"], "2"), "entries.0.ranks: "),
        (changed(["entries", 0, "ranks"], 0), "entries.0.ranks is 0"),
        (changed([*RATES_OF_1, "step_s"], None), "entries.0.rates.step_s: Field required"),
        (changed([*RATES_OF_1, "step_s"], "fast"), "entries.0.rates.step_s: "),
        (changed([*RATES_OF_1, "step_s"], math.nan), "entries.0.rates.step_s is nan"),
        (changed([*RATES_OF_1, "step_s"], math.inf), "entries.0.rates.step_s is inf"),
        (changed([*RATES_OF_1, "operation_s"], -1e-6), "entries.0.rates.operation_s is -1e-06"),
        (changed([*RATES_OF_1, "stream_bytes_per_s"], 0), "entries.0.rates.stream_bytes_per_s is 0"),
        (changed([*RATES_OF_1, "lookup_s"], [0.0, 1.0]), "entries.0.rates.lookup_s"),
        (changed([*RATES_OF_1, "lookup_s", 2], -1.0), "entries.0.rates.lookup_s.2 is -1.0"),
        (changed([*RATES_OF_1, "flops_per_s", "float32"], 0.0), "entries.0.rates.flops_per_s.float32 is 0.0"),
        (changed([*RATES_OF_1, "flops_per_s", "float32"], None), "entries.0.rates.flops_per_s has no float32"),
        (changed([*RATES_OF_1, "cores"], 0.0), "entries.0.rates.cores is 0.0"),
        (changed(["entries", 1, "links", "all_reduce"], None), "entries.1.links has no all_reduce"),
        (changed(["entries", 1, "links", "all_reduce", "bytes_per_s"], 0.0), "all_reduce.bytes_per_s is 0.0"),
        (changed(["factors", "products"], -2.0), "factors.products is -2.0"),
        (changed(["spread"], math.nan), "spread is nan"),
    ],
)  # fmt: skip
def test_a_file_with_a_fault_is_refused_in_a_line_that_names_it(tmp_path, change, said):
    path = tmp_path / "calibration.json"
    WHOLE.write(path)
    told = json.loads(path.read_text())
    change(told)
    path.write_text(json.dumps(told))
    refused(path, said)


def refused(path, *said):
    with pytest.raises(ConfigError) as caught:
        Calibration.read(path)
    message = str(caught.value)
    assert "\n" not in message
    assert message.startswith(f"{path}: machine: ")
    for part in said:
        assert part in message, message


@pytest.mark.parametrize(
    "text", [b"", b"{", b"[]", b"null", b"3", b'"dlrm-calibration"', b"\xff\xfe", b"{}", b"[" * 100_000]
)
def test_no_calibration_at_all(tmp_path, text):
    path = tmp_path / "calibration.json"
    path.write_bytes(text)
    refused(path, "is no calibration")


def test_a_file_that_ends_early_at_any_place(tmp_path):
    path = tmp_path / "calibration.json"
    WHOLE.write(path)
    whole = path.read_text()
    for end in range(0, len(whole) - 2, 37):
        path.write_text(whole[:end])
        refused(path, "is no calibration")


def test_no_file_and_a_folder(tmp_path):
    refused(tmp_path / "none.json", "cannot be read (No such file or directory)")
    refused(tmp_path, "cannot be read (Is a directory)")


# What a machine makes of it.


def links_of(found, ranks):
    return found.machine(ranks, ranks).links.inside["all_reduce"]


FROM_2_TO_8 = Calibration("CPU", (entry(2, latency_us=10, gb_s=4), entry(8, latency_us=40, gb_s=1)))


@pytest.mark.parametrize(
    ("ranks", "latency_us", "gb_s"),
    [
        (2, 10, 4),
        (4, 20, 2),
        (8, 40, 1),
        (16, 40, 1),
    ],  # half-way between 2 and 8 in the logarithm; no further than known
)
def test_links_are_between_those_of_fewer_and_more_ranks(ranks, latency_us, gb_s):
    found = links_of(FROM_2_TO_8, ranks)
    assert (found.latency_s, found.bytes_per_s) == pytest.approx((latency_us * US, gb_s * GB))


def test_links_of_fewer_ranks_than_known_are_those_of_the_fewest():
    found = links_of(Calibration("CPU", (entry(4, latency_us=7), entry(8))), 2)
    assert found.latency_s == pytest.approx(7 * US)


def test_the_order_of_a_file_s_entries_does_not_matter():
    turned = Calibration("CPU", FROM_2_TO_8.entries[::-1])
    for ranks in (2, 3, 4, 8, 9):
        assert links_of(turned, ranks) == links_of(FROM_2_TO_8, ranks)


def test_one_rank_needs_no_links():
    found = Calibration("CPU", (entry(1),)).machine(1, 1)
    assert found.links.inside == {}
    assert found.source == "calibrated: CPU"


def test_rates_are_those_of_the_most_ranks_of_a_host_that_the_job_has():
    known = (entry(1, step_s=1.0), entry(2, step_s=2.0), entry(4, 1, step_s=1.5), entry(8, step_s=8.0))
    found = Calibration("CPU", known)
    for per_host, expected in ((1, (1.0, 1.5)), (2, (2.0,)), (4, (2.0,)), (8, (8.0,)), (64, (8.0,))):
        assert found.machine(64, per_host).rates.step_s in expected
    assert Calibration("CPU", (entry(4, step_s=4.0),)).machine(2, 2).rates.step_s == 4.0


def test_where_ranks_share_cores_their_crowding_counts_and_not_their_rates():
    found = WHOLE.machine(8, 8).rates
    assert (found.crowding, found.step_s) == (1.5, 0.0)
    assert WHOLE.machine(2, 2).rates.crowding == 1.0


def test_factors_and_spread_are_those_of_the_file():
    found = WHOLE.machine(2, 2)
    assert (found.factor("products"), found.factor("lookup"), found.spread) == (1.5, 1.0, 0.1)


@pytest.mark.parametrize(
    ("known", "said"),
    [
        ((), "machine: has no rates: run calibrate on no more ranks than the host has cores"),
        ((entry(8, rates=None),), "machine: has no rates"),
        ((entry(1),), "machine: has no collectives: run calibrate on two ranks, too"),
    ],
)
def test_what_was_not_measured_is_asked_for(known, said):
    with pytest.raises(ConfigError, match=said):
        Calibration("CPU", known).machine(2, 2)


def test_an_entry_takes_the_place_of_one_of_as_many_ranks():
    again = WHOLE.with_entry(entry(2, step_s=9.0)).with_entry(entry(4, 2)).with_entry(entry(4))
    assert [(one.ranks, one.ranks_per_host) for one in again.entries] == [(1, 1), (2, 2), (4, 2), (4, 4), (8, 8)]
    assert again.entries[1].rates.step_s == 9.0
    assert (again.factors, again.spread) == (WHOLE.factors, WHOLE.spread)
