"""Files of Criteo_x1's shape, read by ``pack`` and trained on."""

import json

import numpy as np
import pytest
import torch

from dlrm.config import load_options
from dlrm.config.data.packed import PackedData
from dlrm.config.prepare import PackConfig
from dlrm.data.build import build_dataset
from dlrm.dataset_tools.pack import run_pack
from dlrm.errors import ConfigError, DataError

HEADER = ["label", *(f"I{n}" for n in range(1, 14)), *(f"C{n}" for n in range(1, 27))]


def write_csv(path, rows, *, seed, header=HEADER):
    """Made-up rows: numbers in [0, 1], categories that are numbered through over all columns, some written as 260.0."""
    rng = np.random.default_rng(seed)
    numbers_MN = rng.random((rows, 13)).round(6)
    categories_MF = rng.zipf(1.5, (rows, 26)) % 40 + 40 * np.arange(26)
    labels_M = rng.integers(0, 2, rows)
    lines = [",".join(header)]
    for label, numbers, categories in zip(labels_M, numbers_MN, categories_MF, strict=True):
        shown = [f"{category}.0" if n % 7 == 3 else str(category) for n, category in enumerate(categories)]
        lines.append(",".join([str(label), *(f"{number:g}" for number in numbers), *shown]))
    path.write_text("\n".join(lines) + "\n")
    return labels_M, numbers_MN, categories_MF


def options(folder, *words):
    given = [f"train={folder / 'train.csv'}", f"validation={folder / 'valid.csv'}", f"test={folder / 'test.csv'}"]
    return load_options(PackConfig, None, [*given, f"output={folder / 'packed'}", *words])


def test_the_published_split_and_every_number_are_kept_and_ids_follow_from_the_training_rows(tmp_path):
    sizes = {"train": 700, "valid": 200, "test": 100}
    written = {name: write_csv(tmp_path / f"{name}.csv", rows, seed=i) for i, (name, rows) in enumerate(sizes.items())}
    run_pack(options(tmp_path, "min_count=2"))
    dataset = build_dataset(PackedData(path=str(tmp_path / "packed")))
    assert dataset.schema.dense == tuple(HEADER[1:14])
    vocabularies = []
    for f in range(26):
        values, counts = np.unique(written["train"][2][:, f], return_counts=True)
        vocabularies.append({value: 2 + place for place, value in enumerate(values[counts >= 2])})
    assert [feature.rows for feature in dataset.schema.sparse] == [2 + len(known) for known in vocabularies]
    for source, (labels_M, numbers_MN, categories_MF) in zip(
        (dataset.train, dataset.validation, dataset.test), written.values(), strict=True
    ):
        samples = source.read(torch.arange(source.num_samples))
        np.testing.assert_array_equal(samples.labels_BT[:, 0].numpy(), labels_M)
        np.testing.assert_array_equal(samples.dense_BN.numpy(), numbers_MN.astype(np.float32))
        expected = [[vocabularies[f].get(value, 1) for f, value in enumerate(row)] for row in categories_MF]
        np.testing.assert_array_equal(samples.ids_BS.numpy(), expected)
    manifest = json.loads((tmp_path / "packed" / "dataset.json").read_text())
    assert [part["clicks"] for part in manifest["parts"]] == [int(labels.sum()) for labels, _, _ in written.values()]


def test_missing_fields_are_id_0_and_what_stands_for_a_missing_number(tmp_path):
    (tmp_path / "train.csv").write_text("y;a;b\n1;0.5;7\n0;;\n1;0.25;9.0\n")
    words = [f"train={tmp_path / 'train.csv'}", f"output={tmp_path / 'out'}", "label=y", "dense=a", "sparse=b"]
    run_pack(load_options(PackConfig, None, [*words, "delimiter=;", "dense_missing=-1"]))
    source = build_dataset(PackedData(path=str(tmp_path / "out"))).train
    samples = source.read(torch.arange(3))
    assert samples.dense_BN[:, 0].tolist() == [0.5, -1.0, 0.25]
    assert samples.ids_BS[:, 0].tolist() == [2, 0, 3]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("label,a,b\n2,0.5,7\n", "row 1, column label: is 2.0, must be 0 or 1"),
        ("label,a,b\n1,0.5,7\n1,0.5,7.5\n", "row 2, column b: is 7.5, must be a whole number"),
        ("label,a,b\n1,1e60,7\n", "row 1, column a: is 1e.60, is not finite in float32"),
        ("label,a,c\n1,1,7\n", "has no column b"),
        ("label,a,b\n1,1,68fd1e64\n", "cannot be read .*68fd1e64"),
        ("label,a,b\n1,1\n", "cannot be read .*Expected 3 columns, got 2"),
        ("label,a,b\n", "has a header and no rows"),
        ("", "cannot be read .*Empty CSV file"),
    ],
)
def test_what_is_wrong_with_a_file_is_one_line(tmp_path, text, said):
    (tmp_path / "train.csv").write_text(text)
    words = [f"train={tmp_path / 'train.csv'}", f"output={tmp_path / 'out'}", "dense=a", "sparse=b"]
    with pytest.raises(DataError, match=said) as caught:
        run_pack(load_options(PackConfig, None, words))
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out" / "dataset.json").exists()


def test_nothing_is_written_over_and_no_file_is_in_two_splits(tmp_path):
    for name in ("train", "valid", "test"):
        write_csv(tmp_path / f"{name}.csv", 30, seed=0)
    run_pack(options(tmp_path))
    with pytest.raises(DataError, match="is there already"):
        run_pack(options(tmp_path))
    with pytest.raises(ConfigError, match="the same file is named for two splits"):
        options(tmp_path, f"test={tmp_path / 'train.csv'}")


def test_a_folder_that_cannot_be_made_is_one_line(tmp_path):
    for name in ("train", "valid", "test"):
        write_csv(tmp_path / f"{name}.csv", 3, seed=0)
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match=r"file/out: cannot be made \(Not a directory\); name another folder"):
        run_pack(options(tmp_path, f"output={tmp_path / 'file' / 'out'}"))
