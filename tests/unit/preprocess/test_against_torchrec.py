"""The packed data set beside what torchrec's own utilities make of the same raw rows.

Where both mean the same the outputs are equal; the intended differences are listed, with their reasons, in docs/data.md
("Against torchrec's utilities"), and each has a test here.
"""

from pathlib import Path

import numpy as np
import pytest
import torch
from torchrec.datasets.criteo import BinaryCriteoUtils, InMemoryBinaryCriteoIterDataPipe

from dlrm.config import load_config, load_options
from dlrm.config.prepare import PreprocessConfig
from dlrm.data.loader import BatchLoader
from dlrm.data.order import SampleOrder
from dlrm.data.packed.dataset import packed_dataset
from dlrm.preprocess.job import run_preprocess

ROWS = (301, 200, 151)  # of day_0, day_1, day_2
ALL_ROWS = ("--categories.of=all", "--categories.reserved=mlperf")


@pytest.fixture(scope="module")
def raw(tmp_path_factory) -> Path:
    """Three days of raw rows: integers from -1 up, so that each file's minimum is -1, where the transforms agree."""
    folder = tmp_path_factory.mktemp("raw")
    rng = np.random.default_rng(5)
    for day, rows in enumerate(ROWS):
        with open(folder / f"day_{day}", "w") as out:
            for row in range(rows):
                integers = ["" if rng.random() < 0.2 else str(int(rng.integers(-1, 5000))) for _ in range(13)]
                integers[0] = "-1" if row == 0 else integers[0]
                values = rng.zipf(1.3, 26) % 97 + 1 + 0x9000_0000 * (np.arange(26) % 2)
                categories = ["" if rng.random() < 0.1 else f"{value:08x}" for value in values]
                out.write("\t".join([str(int(rng.random() < 0.3)), *integers, *categories]) + "\n")
    return folder


@pytest.fixture(scope="module")
def reference(raw, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("reference")
    for day in range(len(ROWS)):
        outputs = [str(folder / f"day_{day}_{kind}.npy") for kind in ("dense", "sparse", "labels")]
        BinaryCriteoUtils.tsv_to_npys(str(raw / f"day_{day}"), *outputs)
    return folder


def contiguous(reference: Path, folder: Path, frequency_threshold: int) -> np.ndarray:
    files = [str(reference / f"day_{day}_sparse.npy") for day in range(len(ROWS))]
    BinaryCriteoUtils.sparse_to_contiguous(
        files, str(folder), frequency_threshold=frequency_threshold, output_file_suffix=".npy"
    )
    return np.concatenate([np.load(folder / f"day_{day}_sparse.npy") for day in range(len(ROWS))])


def preprocess(raw: Path, output: Path, *options: str) -> Path:
    words = (f"--input={raw}", f"--output={output}", "--workers=2", *options)
    run_preprocess(load_options(PreprocessConfig, None, words))
    return output


def joined(folder: Path, kind: str) -> np.ndarray:
    return np.concatenate([np.load(folder / f"day_{day}_{kind}.npy") for day in range(len(ROWS))])


def renaming_exists(ids_M: np.ndarray, others_M: np.ndarray) -> bool:
    """Whether one column of ids is the other under a one-to-one renaming."""
    pairs = set(zip(ids_M.tolist(), others_M.tolist(), strict=True))
    return len(pairs) == len({a for a, _ in pairs}) == len({b for _, b in pairs})


def test_files_have_the_names_shapes_and_types_of_torchrec_s(raw, reference, tmp_path):
    ours = preprocess(raw, tmp_path / "packed", *ALL_ROWS)
    for day, rows in enumerate(ROWS):
        for kind, columns, dtype in (("dense", 13, np.float32), ("sparse", 26, np.int32), ("labels", 1, np.int32)):
            mine, theirs = (np.load(folder / f"day_{day}_{kind}.npy") for folder in (ours, reference))
            assert mine.shape == theirs.shape == (rows, columns)
            assert mine.dtype == dtype


def test_dense_values_and_labels_equal_torchrec_s_where_each_file_s_minimum_is_minus_1(raw, reference, tmp_path):
    ours = preprocess(raw, tmp_path / "packed", *ALL_ROWS)
    np.testing.assert_array_max_ulp(joined(ours, "dense"), joined(reference, "dense"), maxulp=1)
    np.testing.assert_array_equal(joined(ours, "labels"), joined(reference, "labels"))


def test_the_transform_does_not_depend_on_the_file_s_minimum_as_torchrec_s_does(raw, tmp_path):
    """Intended difference: the same raw value is the same dense value in every file and split."""
    (tmp_path / "raw").mkdir()
    for day in range(2):
        lines = (raw / f"day_{day}").read_bytes().splitlines(keepends=True)
        lines[1] = b"0\t-3" + lines[1][lines[1].index(b"\t", 2) :] if day else lines[1]
        (tmp_path / "raw" / f"day_{day}").write_bytes(b"".join(lines))
    ours = preprocess(tmp_path / "raw", tmp_path / "packed")
    outputs = [str(tmp_path / f"{kind}.npy") for kind in ("dense", "sparse", "labels")]
    BinaryCriteoUtils.tsv_to_npys(str(tmp_path / "raw" / "day_1"), *outputs)
    mine, theirs = np.load(ours / "day_1_dense.npy"), np.load(outputs[0])
    raw_values = np.array([line.split(b"\t")[2] or b"0" for line in lines], np.float64)
    np.testing.assert_allclose(mine[:, 1], np.log(raw_values + 3), rtol=1e-6)
    np.testing.assert_allclose(theirs[:, 1], np.log(raw_values + 3 + 2), rtol=1e-6)  # - (-3) + 2


def test_ids_equal_torchrec_s_up_to_renaming_and_are_contiguous(raw, reference, tmp_path):
    theirs_MF = contiguous(reference, tmp_path, frequency_threshold=0)
    mine_MF = joined(preprocess(raw, tmp_path / "packed", *ALL_ROWS), "sparse")
    for column in range(26):
        assert renaming_exists(mine_MF[:, column], theirs_MF[:, column])
        assert set(mine_MF[:, column]) == set(range(len(set(theirs_MF[:, column]))))


def test_the_same_categories_are_rare_as_with_torchrec_s_frequency_threshold(raw, reference, tmp_path):
    theirs_MF = contiguous(reference, tmp_path, frequency_threshold=3)
    options = ("--categories.of=all", "--categories.min_count=3")
    mine_MF = joined(preprocess(raw, tmp_path / "packed", *options), "sparse")
    raw_MF = joined(reference, "sparse")
    for column in range(26):
        given_M = raw_MF[:, column] != 0  # what is missing is 0 there, as any other value; here it has an id of its own
        np.testing.assert_array_equal((mine_MF[:, column] == 1)[given_M], (theirs_MF[:, column] == 1)[given_M])
        assert renaming_exists(mine_MF[given_M, column], theirs_MF[given_M, column])
        assert (mine_MF[~given_M, column] == 0).all()


def test_a_missing_category_is_not_the_value_0_as_in_torchrec(tmp_path):
    """Intended difference, unless reserved is mlperf."""
    (tmp_path / "raw").mkdir()
    for day in range(2):
        lines = ["\t".join(["0", *["1"] * 13, *[category] * 26]) for category in ("", "00000000", "00000007")]
        (tmp_path / "raw" / f"day_{day}").write_text("\n".join(lines) + "\n")
    separate = np.load(preprocess(tmp_path / "raw", tmp_path / "separate") / "day_0_sparse.npy")[:, 0]
    mlperf = np.load(preprocess(tmp_path / "raw", tmp_path / "mlperf", *ALL_ROWS) / "day_0_sparse.npy")[:, 0]
    outputs = [str(tmp_path / f"{kind}.npy") for kind in ("dense", "sparse", "labels")]
    BinaryCriteoUtils.tsv_to_npys(str(tmp_path / "raw" / "day_0"), *outputs)
    assert len(set(separate)) == 3
    assert renaming_exists(mlperf, np.load(outputs[1])[:, 0])
    assert len(set(mlperf)) == 2


def test_categories_that_training_does_not_show_are_unseen_here_and_have_ids_in_torchrec(raw, reference, tmp_path):
    """Intended difference: vocabularies are made from the training rows unless all are asked for."""
    mine_MF = joined(preprocess(raw, tmp_path / "packed"), "sparse")
    raw_MF = joined(reference, "sparse")
    train_rows = ROWS[0] + ROWS[1]
    unseen = 0
    for column in range(26):
        known = set(raw_MF[:train_rows, column]) - {0}
        expected_M = np.array([value in known or value == 0 for value in raw_MF[:, column]])
        np.testing.assert_array_equal(mine_MF[:, column] == 1, ~expected_M)
        unseen += int((~expected_M).sum())
    assert unseen > 0


def test_shuffling_moves_whole_rows_and_only_training_rows_as_torchrec_s(raw, reference, tmp_path):
    """The permutations differ (ours needs no memory), the rows are the same."""
    plain = preprocess(raw, tmp_path / "plain")
    shuffled = preprocess(raw, tmp_path / "shuffled", "--shuffle=true", "--bucket_rows=100")

    def rows(folder: Path, days: range) -> list[tuple[float, ...]]:
        kinds = [
            np.concatenate([np.load(folder / f"day_{day}_{kind}.npy") for day in days])
            for kind in ("dense", "sparse", "labels")
        ]
        return [tuple(row) for row in np.concatenate(kinds, axis=1).astype(np.float64)]

    assert sorted(rows(plain, range(2))) == sorted(rows(shuffled, range(2)))
    moved = sum(a != b for a, b in zip(rows(plain, range(2)), rows(shuffled, range(2)), strict=True))
    assert moved > 0.95 * (ROWS[0] + ROWS[1])
    assert rows(plain, range(2, 3)) == rows(shuffled, range(2, 3))


def test_ids_from_2_to_the_24_up_survive_the_shuffle(tmp_path):
    """Intended difference: torchrec's shuffle holds ids as float32, in which 2^24 and 2^24 + 1 are one."""
    rows = 600
    (tmp_path / "raw").mkdir()
    for day in range(2):
        lines = ["\t".join(["0", *["1"] * 13, *[f"{8 * row + day:08x}"] * 26]) for row in range(rows)]
        (tmp_path / "raw" / f"day_{day}").write_text("\n".join(lines) + "\n")
    hashing = ("--categories.kind=hashing", "--categories.rows=1000000007")
    split = ("--split.train=[day_0..day_1]",)
    plain = preprocess(tmp_path / "raw", tmp_path / "plain", *hashing, *split)
    shuffled = preprocess(tmp_path / "raw", tmp_path / "shuffled", *hashing, *split, "--shuffle=true")
    before, after = (
        np.concatenate([np.load(folder / f"day_{day}_sparse.npy")[:, 0] for day in range(2)])
        for folder in (plain, shuffled)
    )
    assert (before > 2**24).mean() > 0.9
    assert (before.astype(np.float32).astype(np.int64) != before).mean() > 0.5  # what float32 would have done
    np.testing.assert_array_equal(np.sort(before), np.sort(after))


def test_torchrec_s_own_reader_reads_the_packed_files_and_gives_the_batches_that_ours_does(raw, tmp_path):
    packed = preprocess(raw, tmp_path / "packed")
    parts = [[str(packed / f"day_{day}_{kind}.npy") for day in range(2)] for kind in ("dense", "sparse", "labels")]
    theirs = InMemoryBinaryCriteoIterDataPipe(
        "train", *parts, batch_size=64, rank=0, world_size=1, drop_last=False, hashes=None
    )
    config = load_config(None, ("--data.kind=packed", f"--data.path={packed}")).data
    source = packed_dataset(config).train
    order = SampleOrder(source.num_samples, global_batch_size=64)
    ours = BatchLoader(source, order)
    dense, sparse, labels = [], [], []
    for batch in theirs:
        dense.append(batch.dense_features)
        sparse.append(batch.sparse_features.values().view(26, -1).t())
        labels.append(batch.labels.view(-1))
    mine = list(ours.batches(0, 0, order.num_batches))
    real = [batch.weights[:, 0] > 0 for batch in mine]
    torch.testing.assert_close(torch.cat([b.dense[r] for b, r in zip(mine, real, strict=True)]), torch.cat(dense))
    torch.testing.assert_close(torch.cat([b.sparse.values().view(26, -1).t() for b in mine]), torch.cat(sparse))
    torch.testing.assert_close(
        torch.cat([b.labels[r, 0] for b, r in zip(mine, real, strict=True)]), torch.cat(labels).to(torch.float32)
    )


def test_the_last_day_is_halved_as_in_criteo_terabyte(raw, tmp_path):
    """Validation takes the first half of the last day, with the odd row (Terabyte: 89,137,319 rows), test the rest."""
    packed = preprocess(raw, tmp_path / "packed")
    dataset = packed_dataset(load_config(None, ("--data.kind=packed", f"--data.path={packed}")).data)
    assert dataset.train.num_samples == ROWS[0] + ROWS[1]
    assert (dataset.validation.num_samples, dataset.test.num_samples) == (76, 75)
    last = np.load(packed / "day_2_sparse.npy")
    np.testing.assert_array_equal(dataset.validation.read(torch.arange(76)).ids_BS.numpy(), last[:76])
    np.testing.assert_array_equal(dataset.test.read(torch.arange(75)).ids_BS.numpy(), last[76:])
