"""What a job is about is estimated from the start of every file, and dealt out to ranks evenly and the same on each."""

import gzip
import random

import pyarrow as pa
import pytest

from dlrm.config.data.raw import HashedCategories
from dlrm.config.prepare import PreprocessConfig
from dlrm.errors import DataError
from dlrm.preprocess.job_context import check_room, disk_errors, extent_of, owners, peak_bytes
from dlrm.preprocess.sources import find_sources

ROWS = 40_000


@pytest.fixture(scope="module")
def text():
    draw = random.Random(0)
    return b"".join(
        b"%d\t%d\t%08x\t%08x\n" % (*divmod(draw.randrange(2000), 2), draw.getrandbits(32), draw.getrandbits(32))
        for _ in range(ROWS)
    )


@pytest.mark.parametrize("kind", ["plain", "gzip", "zstd"])
def test_text_and_rows_are_estimated_whatever_the_compression(tmp_path, text, kind):
    text = text * 6  # so that the sample is not all of it
    stored = {
        "plain": lambda: text, "gzip": lambda: gzip.compress(text, 1),
        "zstd": lambda: pa.compress(text, codec="zstd", asbytes=True),
    }[kind]()  # fmt: skip
    path = tmp_path / "day_0"
    path.write_bytes(stored)
    (source,) = find_sources([str(path)])
    extent = extent_of(source)
    assert extent.text_bytes == pytest.approx(len(text), rel=0.1)
    assert extent.rows == pytest.approx(6 * ROWS, rel=0.1)


def test_need_is_that_of_the_fullest_moment():
    plain = PreprocessConfig(input=["a"], output="b")
    shuffled = PreprocessConfig(input=["a"], output="b", shuffle=True)
    hashed = plain.model_copy(update={"categories": HashedCategories(rows=10)})
    parsed, packed, occurring = 4 * (1 + 13 + 26), 4 * (1 + 13 + 26), 4 * 26
    with_key = parsed + 8
    rows = [1000, 3000]
    assert peak_bytes(plain, rows, ranks=1) == pytest.approx(1.05 * (4000 * parsed + 3000 * packed), rel=0.01)
    assert peak_bytes(plain, [1000] * 4, ranks=1) == pytest.approx(1.05 * 4000 * (parsed + occurring), rel=0.01)
    assert peak_bytes(hashed, [1000] * 4, ranks=1) == pytest.approx(1.05 * (4000 * parsed + 1000 * packed), rel=0.01)
    assert peak_bytes(shuffled, rows, ranks=2) == pytest.approx(1.05 * 4000 * (with_key + packed), rel=0.01)
    assert peak_bytes(shuffled, [100] * 40, ranks=2) == pytest.approx(1.05 * 4000 * (with_key + packed), rel=0.01)
    reclaimed = 4000 * with_key + 100 * packed
    before = 4000 * (with_key + occurring)
    assert peak_bytes(shuffled, [100] * 40, ranks=1) == pytest.approx(1.05 * max(reclaimed, before), rel=0.01)
    kept = shuffled.model_copy(update={"keep_work": True})
    assert peak_bytes(kept, rows, ranks=1) == peak_bytes(shuffled, rows, ranks=2)


def test_what_the_job_has_taken_already_counts_as_room(tmp_path, monkeypatch):
    monkeypatch.setattr("shutil.disk_usage", lambda path: type("Usage", (), {"free": 2**20}))
    with pytest.raises(DataError) as error:
        check_room(tmp_path, 3 * 2**30)
    assert str(error.value).startswith(f"{tmp_path}: about 3.0 GiB are needed, 0.000977 GiB are free; make 3.0 GiB")
    (tmp_path / "work").mkdir()
    (tmp_path / "work" / "spill").write_bytes(b"x" * 2**21)
    check_room(tmp_path, 2**21 + 2**19)


def test_what_the_system_says_of_a_file_is_one_line_with_its_name(tmp_path):
    with pytest.raises(DataError, match=r"absent: the disk refuses \(No such file"), disk_errors(tmp_path):
        (tmp_path / "absent").read_bytes()
    with pytest.raises(OSError, match="no number"), disk_errors(tmp_path):
        raise OSError("no number")  # not the system's


def test_the_largest_go_first_to_whoever_has_least():
    assert owners([10, 70, 30, 40], 2) == [0, 0, 1, 1]
    assert owners([5, 5, 5, 5], 3) == [0, 1, 2, 0]
    assert owners([1], 3) == [0]


def test_everything_has_an_owner_and_no_rank_has_more_than_its_share_and_one_thing():
    sizes = [(i * 37) % 101 for i in range(50)]
    owner = owners(sizes, 7)
    loads = [sum(size for size, o in zip(sizes, owner, strict=True) if o == rank) for rank in range(7)]
    assert sum(loads) == sum(sizes)
    assert max(loads) <= sum(sizes) / 7 + max(sizes)
