"""Text, and whole numbers of any size, become ids by what the training rows hold."""

from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from pydantic import ValidationError

from dlrm.errors import ConfigError
from tests.unit.data.parquet.parquet_files import config, dataset, write

TOWNS = ["ulm", "köln", None, "bern", "ulm", "zürich", "bern", "ulm"]
TAGS = [["b", "a"], [], None, ["c", None], ["a"], ["a", "a"], ["d"], ["b"]]
LARGE = [2**62, -5, 2**62, 7, None, 7, 2**62, 12]


def columns(rows=slice(None), **others):
    found = {"label": [0, 1] * 4, "town": TOWNS, "tags": TAGS, "large": LARGE, "plain": list(range(8))}
    return {name: values[rows] for name, values in (found | others).items()}


def options(folder: Path, **changes):
    vocabulary = {"columns": ["town", "tags", "large"], "folder": str(folder)} | changes.pop("vocabulary", {})
    return {
        "dense": [],
        "sparse": ["town", "tags", "large", "plain"],
        "rows": [10, 10, 10, 8],
        "hotness": [1, 2, 1, 1],
        "vocabulary": vocabulary,
        **changes,
    }


def by_hand(values, of, min_count=1):
    """0 missing, 1 not in the vocabulary, the others by their text."""
    counts = Counter(str(value) for value in of if value is not None)
    kept = sorted((value for value, count in counts.items() if count >= min_count), key=lambda text: text.encode())
    id_of = {value: number + 2 for number, value in enumerate(kept)}
    return [0 if value is None else id_of.get(str(value), 1) for value in values]


@pytest.mark.parametrize("min_count", [1, 2])
def test_ids_are_those_of_the_definition_and_what_training_did_not_show_is_id_1(tmp_path, min_count):
    write(tmp_path / "train_0.parquet", columns(slice(0, 5)), row_group_size=2)
    write(tmp_path / "train_1.parquet", columns(slice(5, 6)))
    write(tmp_path / "val.parquet", columns(slice(6, 8)))
    found = dataset(tmp_path, **options(tmp_path, vocabulary={"min_count": min_count}))
    for source, rows in ((found.train, slice(0, 6)), (found.validation, slice(6, 8))):
        samples = source.read(torch.arange(source.num_samples))
        assert samples.ids_BS[:, 0].tolist() == by_hand(TOWNS[rows], TOWNS[:6], min_count)
        assert samples.ids_BS[:, 3].tolist() == by_hand(LARGE[rows], LARGE[:6], min_count)
        assert samples.ids_BS[:, 4].tolist() == list(range(8))[rows]
        trained = [tag for bag in TAGS[:6] for tag in bag or []]
        lengths = samples.lengths_BF[:, 1].tolist()
        bags = [row[:length] for row, length in zip(samples.ids_BS[:, 1:3].tolist(), lengths, strict=True)]
        assert bags == [by_hand(bag or [], trained, min_count) for bag in TAGS[rows]]


def test_other_data_get_the_ids_of_the_folder_that_is_named_and_its_files_are_of_the_data(tmp_path):
    write(tmp_path / "old" / "train.parquet", columns())
    write(tmp_path / "new" / "train.parquet", columns(town=["bern", "ulm", "rom", None] * 2))
    source = dataset(tmp_path / "new", **options(tmp_path / "old")).train
    assert source.read(torch.arange(4)).ids_BS[:, 0].tolist() == by_hand(["bern", "ulm", "rom", None], TOWNS)
    assert [file.name for file in source.fingerprint()] == ["train.parquet", "vocabulary/train.parquet"]
    own = dataset(tmp_path / "old", **options(tmp_path / "old")).train
    assert [file.name for file in own.fingerprint()] == ["train.parquet"]


def test_it_does_not_matter_how_files_store_values_or_are_divided(tmp_path):
    random = np.random.default_rng(4)
    names = [f"n{number}" for number in random.integers(0, 60, 500)]
    numbers = random.integers(0, 60, 500)
    kinds = {
        "plain": (pa.array(names), pa.array(numbers)),
        "dictionary": (pa.array(names).dictionary_encode(), pa.array(numbers, pa.uint8())),
        "text": (pa.array(names, pa.large_string()), pa.array([str(number) for number in numbers])),
    }
    found = []
    for kind, (texts, whole) in kinds.items():
        for half, rows in enumerate((slice(0, 200), slice(200, 500))):
            values = {"label": [0] * (rows.stop - rows.start), "a": texts[rows], "b": whole[rows]}
            write(tmp_path / kind / f"train_{half}.parquet", values, row_group_size=37)
        given = {"dense": [], "sparse": ["a", "b"], "rows": [62, 62]}
        vocabulary = {"columns": ["a", "b"], "folder": str(tmp_path / kind)}
        source = dataset(tmp_path / kind, **given, vocabulary=vocabulary).train
        found.append(source.read(torch.arange(500)).ids_BS.tolist())
    assert found[0] == found[1] == found[2]
    assert [row[0] for row in found[0]] == by_hand(names, names)
    assert [row[1] for row in found[0]] == by_hand(numbers, numbers)


def test_what_does_not_do_is_said_before_training(tmp_path):
    write(tmp_path / "train.parquet", columns(large=[0.5] * 8))
    with pytest.raises(ConfigError, match=r"data\.vocabulary\.columns.*column large is double, neither text nor whole"):
        dataset(tmp_path, **options(tmp_path))
    write(tmp_path / "train.parquet", columns())
    with pytest.raises(ConfigError, match=r"data\.rows: is 5 for town, whose vocabulary needs 6 .*give as many"):
        dataset(tmp_path, **options(tmp_path, rows=[5, 10, 10, 8]))
    with pytest.raises(ConfigError, match=r"data\.vocabulary\.files: no file of .* matches train"):
        dataset(tmp_path, **options(tmp_path / "nowhere"))
    with pytest.raises(
        ConfigError, match=r"data\.sparse: .*column town is text .*or name it in data\.vocabulary\.columns"
    ):
        dataset(tmp_path, **options(tmp_path, vocabulary={"columns": ["tags", "large"]}))
    with pytest.raises(ValidationError, match="columns are given and folder is not"):
        config(tmp_path, **options(tmp_path, vocabulary={"folder": ""}))
    with pytest.raises(ValidationError, match=r"vocabulary\.columns names x, which is no column of sparse"):
        config(tmp_path, **options(tmp_path, vocabulary={"columns": ["x"]}))


def test_weights_of_ids_stand_beside_text(tmp_path):
    weights = [[0.5] * len(bag or []) for bag in TAGS]
    write(tmp_path / "train.parquet", columns(w=weights))
    samples = dataset(tmp_path, **options(tmp_path, id_weights={"tags": "w"})).train.read(torch.tensor([3, 1]))
    assert samples.id_weights_BS[:, 1:3].tolist() == [[0.5, 0.5], [0, 0]]
    assert samples.ids_BS[0, 1:3].tolist() == [4, 0]
