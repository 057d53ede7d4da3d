"""Profiles: as exact as they say, small, and read strictly."""

from __future__ import annotations

import json

import numpy as np
import pytest

from dlrm.data.synthetic.lru_stack import stack_distances
from dlrm.data.synthetic.trace_profile import (
    TOLERANCE,
    ColumnProfile,
    TraceProfile,
    profile_column,
    read_profile,
    write_profile,
)
from dlrm.errors import DataError
from tests.unit.data.synthetic.id_streams import (
    drifting_stream,
    ks_distance,
    lru_hit_rate,
    scan_and_zipf_stream,
    scan_stream,
    zipf_stream,
)

STREAMS = {
    "zipf": zipf_stream(60_000, 20_000, 1.05),
    "flat": zipf_stream(60_000, 100_000, 0.5),
    "scan": scan_stream(60_000, 5000),
    "scan and zipf": scan_and_zipf_stream(60_000),
    "drifting": drifting_stream(60_000),
    "one id": np.zeros(1000, np.int64),
    "never twice": np.arange(1000),
    "one reference": np.array([5]),
}


def all_distances(profile: ColumnProfile) -> np.ndarray:
    return profile.distances(np.arange(profile.references))


@pytest.mark.parametrize("stream", STREAMS.values(), ids=STREAMS)
def test_a_profile_is_within_its_tolerance_of_the_stream(stream):
    exact = stack_distances(stream)
    for tolerance in (TOLERANCE, 0.02):
        profile = profile_column("c", 10, stream, tolerance)
        # One reference more: within a line, distances are whole numbers.
        assert ks_distance(all_distances(profile), exact) <= tolerance + 1 / len(stream)
        assert len(profile.distances_K) <= 2 / tolerance
        assert (profile.references, profile.distinct) == (len(stream), len(np.unique(stream)))


@pytest.mark.parametrize("stream", STREAMS.values(), ids=STREAMS)
def test_a_profile_without_tolerance_is_the_distribution(stream):
    profile = profile_column("c", 10, stream, tolerance=0)
    assert np.array_equal(all_distances(profile), np.sort(stack_distances(stream)))


def test_the_profile_of_a_noisy_distribution_is_bounded_as_well():
    rng = np.random.default_rng(0)
    stream = np.concatenate([np.tile(rng.permutation(period), 6) for period in rng.integers(2, 4000, 300)])
    profile = profile_column("c", 4000, stream)
    assert 300 < len(profile.distances_K) <= 2 / TOLERANCE
    assert ks_distance(all_distances(profile), stack_distances(stream)) <= TOLERANCE + 1 / len(stream)


@pytest.mark.parametrize("cache_rows", [1, 30, 4999, 5000, 10**6])
@pytest.mark.parametrize("stream", [STREAMS["scan"], STREAMS["zipf"]], ids=["scan", "zipf"])
def test_its_hit_rates_are_those_of_a_cache(stream, cache_rows):
    profile = profile_column("c", 10, stream)
    assert profile.hit_rate(cache_rows) == pytest.approx(lru_hit_rate(stream, cache_rows), abs=TOLERANCE + 1e-9)


def test_its_quantiles_are_those_of_the_distances():
    exact = np.sort(stack_distances(STREAMS["drifting"]))
    warm = exact[exact > 0]
    profile = profile_column("c", 10, STREAMS["drifting"], tolerance=0)
    assert profile.reuse_quantile(0.5) == warm[len(warm) // 2]
    assert profile.reuse_quantile(0.9) == warm[int(0.9 * len(warm))]
    assert profile.reuse_quantile(1.0) == warm[-1]
    assert profile_column("c", 10, STREAMS["never twice"]).reuse_quantile(0.5) == 0


def test_what_is_written_is_read_again(tmp_path):
    path = str(tmp_path / "new" / "profile.json")
    written = TraceProfile(tuple(profile_column(name, 7, stream) for name, stream in STREAMS.items()))
    write_profile(written, path)
    for column, original in zip(read_profile(path).columns, written.columns, strict=True):
        assert (column.name, column.rows) == (original.name, 7)
        assert np.array_equal(all_distances(column), all_distances(original))
    assert [file.name for file in (tmp_path / "new").iterdir()] == ["profile.json"]


def test_a_file_of_26_columns_of_ten_million_references_stays_below_a_megabyte(tmp_path):
    # The most knots that the tolerance allows, with the longest numbers.
    distances = 8_000_000 + np.arange(int(2 / TOLERANCE)) * 900
    reuses = 200_000 + np.arange(1, len(distances) + 1) * 400
    column = ColumnProfile("cat_25", 40_000_000, 10_000_000, 10_000_000 - int(reuses[-1]), distances, reuses)
    write_profile(TraceProfile((column,) * 26), str(tmp_path / "profile.json"))
    assert (tmp_path / "profile.json").stat().st_size < 2**20


def profile_file(tmp_path, **changes):
    """A small profile with changes to its column (or, with a ``top_`` before the key, to the file)."""
    column = {"name": "a", "rows": 9, "references": 10, "distinct": 4, "distances": [1, 3], "reuses": [2, 6]}
    found = {"format": "dlrm-trace-profile", "version": 1, "columns": [column]}
    for key, value in changes.items():
        (found if key.startswith("top_") else column)[key.removeprefix("top_")] = value
    path = tmp_path / "profile.json"
    path.write_text(json.dumps(found))
    return str(path)


def test_a_file_written_by_hand_is_read(tmp_path):
    (column,) = read_profile(profile_file(tmp_path)).columns
    assert all_distances(column).tolist() == [0, 0, 0, 0, 1, 1, 2, 2, 3, 3]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"top_format": "dlrm-packed"}, "is not a profile of id streams"),
        ({"top_version": 2}, "has format version 2, this program reads 1"),
        ({"top_columns": []}, "columns: "),
        ({"top_more": 1}, "more: Extra inputs are not permitted"),
        ({"rows": 0}, "columns.0.rows: must be greater than or equal to 1"),
        ({"rows": "9"}, "columns.0.rows: must be a valid integer"),
        ({"references": 2**31}, "columns.0.references: "),
        ({"distinct": 11}, "columns.0.distinct: 11 distinct ids in 10 references cannot be"),
        ({"distances": [3, 1]}, "columns.0.distances: must ascend"),
        ({"distances": [1, 1]}, "columns.0.distances: must ascend"),
        ({"distances": [0, 3]}, "columns.0.distances.0: "),
        ({"distances": [1, 5]}, r"columns.0.distances: must ascend and not exceed the number of distinct ids \(4\)"),
        ({"distances": [1, 2, 3]}, "columns.0.reuses: has 2 entries, distances has 3"),
        ({"reuses": [7, 6]}, r"columns.0.reuses: must ascend to references - distinct \(6\)"),
        ({"reuses": [2, 5]}, r"columns.0.reuses: must ascend to references - distinct \(6\)"),
        ({"distances": [], "reuses": []}, r"columns.0.reuses: must ascend to references - distinct \(6\)"),
        ({"reuses": [2.5, 6]}, "columns.0.reuses.0: must be a valid integer"),
        ({"name": None}, "columns.0.name: "),
    ],
)
def test_a_damaged_file_is_refused_with_its_name_and_the_key(tmp_path, changes, message):
    path = profile_file(tmp_path, **changes)
    with pytest.raises(DataError, match=message) as caught:
        read_profile(path)
    assert str(caught.value).startswith(path)
    assert "\n" not in str(caught.value)
    assert caught.value.hint


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b"[" * 100_000, b"[1]", b"null"])
def test_a_file_that_is_no_profile_is_refused(tmp_path, content):
    path = tmp_path / "profile.json"
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"is not valid JSON|is not a profile"):
        read_profile(str(path))


def test_a_missing_file_and_a_folder_are_refused(tmp_path):
    with pytest.raises(DataError, match=r"nowhere.json: cannot be read \(No such file or directory\); write one with"):
        read_profile(str(tmp_path / "nowhere.json"))
    with pytest.raises(DataError, match="cannot be read"):
        read_profile(str(tmp_path))
    with pytest.raises(DataError, match="cannot be written"):
        write_profile(TraceProfile((profile_column("c", 1, np.zeros(3)),)), str(tmp_path))
    assert list(tmp_path.iterdir()) == []
