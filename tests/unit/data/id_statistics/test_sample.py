import re
from itertools import pairwise

import numpy as np
import pytest
import torch

from dlrm.config.data import PackedData, PlantedData, RandomData
from dlrm.config.data.synthetic import ZipfIds
from dlrm.data.build import build_dataset
from dlrm.data.id_statistics.base import UniformIds, imbalance
from dlrm.data.id_statistics.file import read_statistics, write_statistics
from dlrm.data.id_statistics.measured import MeasuredIds
from dlrm.data.id_statistics.power_law import PowerLawIds
from dlrm.data.id_statistics.sample import BLOCK, blocks, measure, statistics_of
from dlrm.errors import DataError
from dlrm.schema import Schema
from tests.unit.dataset_tools.inspect.packed_folders import write_manifest, write_part


@pytest.mark.parametrize(
    ("available", "wanted"), [(0, 10), (1, 10), (100, 100), (10_000, 200), (10**6, 1000), (130, 129)]
)
def test_blocks_are_spread_over_all_samples(available, wanted):
    found = list(blocks(available, wanted))
    assert sum(stop - start for start, stop in found) == min(available, wanted)
    assert all(0 <= start < stop <= available and stop - start <= BLOCK for start, stop in found)
    assert all(left[1] <= right[0] for left, right in pairwise(found))
    if available > 10 * wanted > 0:
        gaps = [right[0] - left[1] for left, right in pairwise(found)]
        assert max(gaps) - min(gaps) <= 2
        assert found[0][0] == pytest.approx(gaps[0] / 2, abs=2)


def random_data(**options) -> RandomData:
    return RandomData(train_samples=40_000, validation_samples=10, test_samples=10, num_dense=2, **options)


def test_zipf_ids_of_random_data_follow_their_law():
    config = random_data(rows=(5000, 40), hotness=(3, 1), ids=ZipfIds(exponent=1.1))
    first, second = measure(build_dataset(config).train)
    law = PowerLawIds(5000, 1.1)
    assert (first.samples, first.lookups, first.ids_per_sample) == (40_000, 120_000, 3)
    assert first.distinct(10_000) == pytest.approx(law.distinct(10_000), rel=0.02)
    assert first.hot_share(0.01) == pytest.approx(law.hot_share(0.01), abs=0.01)
    assert first.row_range_shares(5000, 8) == pytest.approx(law.row_range_shares(5000, 8), abs=0.01)
    assert first.hot_rows[:3] == (0, 1, 2)
    assert second.seen == 40


def test_bags_of_random_length_count_with_the_ids_they_have():
    config = random_data(rows=(5000,), hotness=(9,), random_hotness=True)
    train = build_dataset(config).train
    (found,) = measure(train)
    lengths = train.read(torch.arange(40_000)).lengths_BF
    assert found.lookups == int(lengths.sum())
    assert found.ids_per_sample == pytest.approx(5, abs=0.05)
    assert imbalance(found.row_range_shares(5000, 8)) < 1.01


def test_planted_data_are_measured_and_the_same_twice():
    config = PlantedData(train_samples=4000, validation_samples=10, test_samples=10, rows=(100, 200))
    train = build_dataset(config).train
    first, again = (measure(train, samples=1000) for _ in range(2))
    assert first == again
    assert [ids.samples for ids in first] == [1000, 1000]


def test_a_packed_data_set_is_measured_as_its_files_are_counted(tmp_path):
    rng = np.random.default_rng(0)
    ids_MF = np.stack([rng.integers(0, 50, 4000), rng.zipf(1.5, 4000) % 900], axis=1)
    for part in range(2):
        rows = slice(2000 * part, 2000 * (part + 1))
        write_part(tmp_path, f"day_{part}", np.zeros((2000, 1)), ids_MF[rows], np.zeros(2000))
    write_manifest(tmp_path, (50, 900))
    found = measure(build_dataset(PackedData(path=str(tmp_path))).train)
    for ids, ids_M in zip(found, ids_MF.T, strict=True):
        counts = np.bincount(ids_M)
        assert (ids.samples, ids.lookups, ids.seen) == (4000, 4000, (counts > 0).sum())
        assert (ids.once, ids.hot_counts[0], ids.hot_rows[0]) == ((counts == 1).sum(), counts.max(), counts.argmax())
        assert sum(ids.hot_counts) + sum(ids.bucket_counts) == 4000


def test_a_part_of_the_samples_tells_of_all():
    train = build_dataset(random_data(rows=(3000,), ids=ZipfIds(exponent=1.0))).train
    (part,), (whole,) = measure(train, samples=8000), measure(train)
    for lookups, error in ((10, 0.01), (1000, 0.02), (8000, 0.02), (16_000, 0.05), (40_000, 0.1)):
        assert part.distinct(lookups) == pytest.approx(whole.distinct(lookups), rel=error)


def test_what_nobody_measured_is_uniform_or_a_power_law():
    schema = Schema.numbered(1, (10, 20, 30), hotness=(1, 4, 1))
    known = MeasuredIds("cat_0", 10, 1, 1, 1, 1, 0, (3,), (1,), (1,), (1.0,), (1, 10), (0.1, 1.0), (0,) * 10)
    other_size = MeasuredIds("cat_2", 31, 1, 1, 1, 1, 0, (3,), (1,), (1,), (1.0,), (1, 31), (0.1, 1.0), (0,) * 31)
    found = statistics_of(schema, (known, other_size))
    assert found == {"cat_0": known, "cat_1": UniformIds(20, 4), "cat_2": UniformIds(30, 1)}
    assert statistics_of(schema, (), exponent=1.2)["cat_1"] == PowerLawIds(20, 1.2, 4)


def test_statistics_come_back_from_their_file(tmp_path):
    found = measure(build_dataset(random_data(rows=(5000, 3), ids=ZipfIds(exponent=1.1))).train, samples=1000)
    path = tmp_path / "folder" / "ids.json"
    write_statistics(found, str(path))
    assert read_statistics(str(path)) == found
    assert path.stat().st_size < 40_000


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        (r"^.*$", "nothing", "is not valid JSON"),
        (r"dlrm-id-statistics", "other", "holds no statistics of ids (no format: dlrm-id-statistics)"),
        (r'"version":1', '"version":2', "has format version 2, this program reads 1"),
        (r'"seen":\d+', '"seen":-1', "features.0.seen: must be greater than or equal to 0"),
        (r'"once":\d+,', "", "features.0.once: Field required"),
        (r'"hot_rows":\[0,', '"hot_rows":[9999,', "features.0: hot_rows must be rows of the table (0 .. 4999)"),
        (
            r'"lookups":1000',
            '"lookups":1001',
            "features.0: hot_counts and bucket_counts must add up to the 1001 lookups",
        ),
        (r'"cache_rows":\[1,2', '"cache_rows":[2,2', "features.0: cache_rows must ascend"),
    ],
)
def test_a_damaged_file_is_one_line(tmp_path, old, new, told):
    path = tmp_path / "ids.json"
    write_statistics(
        measure(build_dataset(random_data(rows=(5000,), ids=ZipfIds(exponent=1.1))).train, 1000), str(path)
    )
    text, count = re.subn(old, new, path.read_text().strip(), count=1)
    assert count
    path.write_text(text)
    with pytest.raises(DataError, match=re.escape(told)) as raised:
        read_statistics(str(path))
    assert "\n" not in str(raised.value)


def test_a_file_that_is_not_there_or_cannot_be_written_is_one_line(tmp_path):
    with pytest.raises(DataError, match="cannot be read"):
        read_statistics(str(tmp_path / "none.json"))
    (tmp_path / "file").write_text("")
    found = measure(build_dataset(random_data(rows=(50,))).train, 100)
    with pytest.raises(DataError, match="cannot be written"):
        write_statistics(found, str(tmp_path / "file" / "ids.json"))


def test_measuring_imports_no_torchrec():
    import subprocess
    import sys

    program = (
        "import sys, dlrm.data.id_statistics.sample, dlrm.data.id_statistics.file; sys.exit('torchrec' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
