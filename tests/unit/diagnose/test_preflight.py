"""Causes of a useless training that are planted in data, each of which is found, and nothing else."""

import dataclasses
import gzip
import os
from pathlib import Path

import numpy as np
import pytest
import torch

from dlrm.config import load_config
from dlrm.config.data import ParquetData, RandomData
from dlrm.data.build import build_dataset
from dlrm.data.in_memory import InMemorySource
from dlrm.data.source import Dataset
from dlrm.diagnose.preflight import look_at_data, reserved_ids
from dlrm.diagnose.sample import CHUNKS, Deadline, chunks, sample_rows, spread_order
from dlrm.schema import Schema

ROWS = (50, 400, 12, 30, 9)
CONFIG = ParquetData(path="nowhere", dense=["a"], sparse=["b"], rows=[3])  # of which nothing is read here
REPOSITORY = Path(__file__).resolve().parents[3]
SAMPLE = Path(os.environ.get("CRITEO_SAMPLE", REPOSITORY.parent / "shared" / "data" / "criteo_kaggle_sample.tsv.gz"))


@dataclasses.dataclass
class Rows:
    """Samples before they become a source; labels follow from the first two features and the first number."""

    dense_MN: np.ndarray
    ids_MF: np.ndarray
    labels_MT: np.ndarray

    @classmethod
    def drawn(cls, samples: int, seed: int, tasks: int = 1) -> "Rows":
        rng = np.random.default_rng(seed)
        dense_MN = rng.normal(size=(samples, 3)).astype(np.float32)
        ids_MF = np.stack([np.minimum(rng.zipf(1.3, samples) - 1, rows - 1) for rows in ROWS], axis=1)
        effects = [np.random.default_rng(f).normal(size=rows) for f, rows in enumerate(ROWS)]
        logit_M = -1.5 + 0.5 * dense_MN[:, 0] + effects[0][ids_MF[:, 0]] + effects[1][ids_MF[:, 1]]
        uniform_MT = rng.random((samples, tasks))
        return cls(dense_MN, ids_MF, (uniform_MT < 1 / (1 + np.exp(-logit_M[:, None]))).astype(np.int64))

    def source(self, name: str, rows: tuple[int, ...] = ROWS) -> InMemorySource:
        tasks = ("label",) if self.labels_MT.shape[1] == 1 else ("click", "like")
        schema = Schema.numbered(3, rows, tasks=tasks)
        arrays = (torch.from_numpy(np.ascontiguousarray(a)) for a in (self.dense_MN, self.ids_MF, self.labels_MT))
        return InMemorySource(name, schema, *arrays)


@pytest.fixture
def rows() -> tuple[Rows, Rows, Rows]:
    return Rows.drawn(8000, 1), Rows.drawn(4000, 2), Rows.drawn(4000, 3)


def look(splits, rows=ROWS, samples=8000, time_limit_s=60.0):
    sources = [split.source(name, rows) for split, name in zip(splits, ("train", "validation", "test"), strict=True)]
    return look_at_data(CONFIG, Dataset(*sources), samples=samples, time_limit_s=time_limit_s)


def causes(splits, **options) -> dict[str, str]:
    return {finding.cause: str(finding) for finding in look(splits, **options).findings}


def test_nothing_is_found_in_clean_data(rows):
    found = look(rows)
    assert found.findings == ()
    assert found.looked_at.startswith("8,000 of 8,000 training samples, 4,000 validation samples, 4,000 test samples")


def test_constant_labels_are_found(rows):
    for split in rows:
        split.labels_MT[:] = 0
    found = causes(rows)
    assert found.keys() == {"constant_labels"}
    assert "all 4,000 test labels looked at are 0" in found["constant_labels"]


def test_labels_of_other_rows_are_found(rows):
    rows[0].labels_MT[:] = np.random.default_rng(0).permutation(rows[0].labels_MT)
    assert causes(rows).keys() == {"shuffled_labels"}


def test_labels_of_a_split_that_are_exchanged_or_of_other_rows_are_found(rows):
    rows[1].labels_MT[:] = 1 - rows[1].labels_MT
    rows[2].labels_MT[:] = np.random.default_rng(0).permutation(rows[2].labels_MT)
    found = causes(rows)
    assert found.keys() == {"exchanged_labels", "unrelated_labels", "mostly_positive"}
    assert "the validation labels" in found["exchanged_labels"]
    assert "test labels" in found["unrelated_labels"]


def test_labels_that_are_exchanged_everywhere_are_only_a_question(rows):
    for split in rows:
        split.labels_MT[:] = 1 - split.labels_MT
    assert [finding.level for finding in look(rows).findings] == ["note"] * 3


def test_a_number_that_tells_the_label_is_found(rows):
    for seed, split in enumerate(
        rows
    ):  # AUC 0.92: the difference of two normal variables is above -2 with Phi(2 / sqrt(2))
        split.dense_MN[:, 1] = np.random.default_rng(seed).normal(size=len(split.labels_MT)) + 2 * split.labels_MT[:, 0]
    found = causes(rows)
    assert found.keys() == {"leaking_feature"}
    assert "int_1 alone tells" in found["leaking_feature"]


def test_a_number_that_tells_the_label_by_a_value_in_the_middle_is_found(rows):
    for split in rows:
        split.dense_MN[split.labels_MT[:, 0] == 1, 2] = 0.0
    assert causes(rows).keys() == {"leaking_feature"}


def test_a_category_that_tells_the_label_is_found(rows):
    for seed, split in enumerate(rows):
        wrong_M = np.random.default_rng(seed).random(len(split.labels_MT)) < 0.05
        split.ids_MF[:, 4] = 3 + 4 * (split.labels_MT[:, 0] ^ wrong_M)
    found = causes(rows)
    assert found.keys() == {"leaking_feature"}
    assert "cat_4" in found["leaking_feature"]


def test_ids_that_are_met_once_tell_nothing_of_other_samples_and_are_named(rows):
    size = 20_000
    for seed, split in enumerate(rows):
        split.ids_MF[:, 3] = np.random.default_rng(seed).permutation(size)[: len(split.ids_MF)]
    assert causes(rows, rows=(*ROWS[:3], size, ROWS[4])).keys() == {"unique_ids"}


def test_a_column_of_one_value_is_found(rows):
    for split in rows:
        split.dense_MN[:, 1], split.ids_MF[:, 2] = 7.0, 3
    found = causes(rows)
    assert found.keys() == {"constant_feature"}
    assert "int_1, cat_2 have" in found["constant_feature"]


@pytest.mark.parametrize("case", ["counts", "one large value", "scales"])
def test_numbers_that_no_mlp_learns_from_are_found(rows, case):
    for split in rows:
        if case == "counts":
            split.dense_MN[:, 1] = np.exp(3 * split.dense_MN[:, 1] + 5)
        elif case == "one large value":
            split.dense_MN[17, 1] = 1000.0
        else:
            split.dense_MN[:, 1], split.dense_MN[:, 2] = 50 * split.dense_MN[:, 1], 0.001 * split.dense_MN[:, 2]
    assert causes(rows).keys() == {"dense_scale"}


def test_an_id_that_stands_for_missing_values_in_many_features_is_found(rows):
    for seed, split in enumerate(rows):
        missing_MF = np.random.default_rng(seed).random(split.ids_MF.shape) < 0.8
        split.ids_MF[:, :] = np.where(missing_MF, 0, 1 + split.ids_MF % (np.array(ROWS) - 1))
    found = causes(rows)
    assert found.keys() == {"missing_is_a_real_id"}
    assert "id 0 is more than 5 times as frequent" in found["missing_is_a_real_id"]


def test_null_ids_that_become_a_real_id_are_found(rows):
    rows[0].ids_MF[:2000, 1] = -1
    sources = [split.source(name) for split, name in zip(rows, ("train", "validation", "test"), strict=True)]
    sources[0].null_id, sources[0].bad_rows = -1, "clamp"
    found = look_at_data(CONFIG, Dataset(*sources), samples=8000, time_limit_s=60.0).findings
    assert [finding.cause for finding in found] == ["null_is_a_real_id"]
    assert "25 % of the ids of cat_1" in found[0].said


def test_samples_that_are_validated_on_and_trained_on_are_found(rows):
    for name in ("dense_MN", "ids_MF", "labels_MT"):
        getattr(rows[1], name)[1000:3000] = getattr(rows[0], name)[5000:7000]
    found = look(rows, samples=6000)  # of which no sample finds itself
    (overlap,) = (finding for finding in found.findings if finding.cause == "overlapping_splits")
    assert len(found.findings) == 1
    assert "of the validation samples" in overlap.said
    assert found.overlaps[0].share == pytest.approx(0.5, abs=0.05)
    assert found.overlaps[1].found == 0


def test_samples_of_few_columns_coincide_without_being_an_overlap(rows):
    for split in rows:
        split.dense_MN[:] = np.round(split.dense_MN[:, :1])
        split.ids_MF[:, 1:] %= 3
    found = look(rows)
    assert found.overlaps[0].found > 2000
    assert not any(finding.cause == "overlapping_splits" for finding in found.findings)


def test_each_task_is_judged_by_itself():
    splits = [Rows.drawn(8000, 1, 2), Rows.drawn(4000, 2, 2), Rows.drawn(4000, 3, 2)]
    splits[0].labels_MT[:, 1] = np.random.default_rng(0).permutation(splits[0].labels_MT[:, 1])
    found = causes(splits)
    assert found.keys() == {"shuffled_labels"}
    assert "task like" in found["shuffled_labels"]


def test_reading_ends_when_the_time_is_up_and_says_so(rows):
    found = look(rows, time_limit_s=1e-9)
    assert "(time was up: 1e-09 s)" in found.looked_at
    assert len(sample_rows(rows[0].source("train"), 8000, Deadline(0))) == 8000 // CHUNKS


def test_chunks_cover_all_samples_once_or_are_spread_over_them():
    assert sorted(i for chunk in chunks(1000, 1000) for i in range(*chunk)) == list(range(1000))
    few = sorted(i for chunk in chunks(100_000, 500) for i in range(*chunk))
    assert len(set(few)) == 500
    assert np.diff(few).max() < 2 * 100_000 / CHUNKS
    assert spread_order(8) == [0, 4, 2, 6, 1, 5, 3, 7]


def test_random_labels_are_not_looked_at():
    assert look_at_data(RandomData(), None, samples=1, time_limit_s=1.0).findings == ()


@pytest.mark.criteo
@pytest.mark.skipif(not SAMPLE.exists(), reason=f"no Criteo sample at {SAMPLE}")
def test_nothing_is_found_in_a_part_of_the_criteo_sample(tmp_path):
    with gzip.open(SAMPLE) as file, (tmp_path / "part.tsv").open("wb") as part:
        part.writelines(line for _, line in zip(range(12_000), file, strict=False))
    words = [f"--data.paths={tmp_path / 'part.tsv'}", "--data.split={validation: 2000, test: 2000}"]
    config = load_config(REPOSITORY / "configs" / "criteo_sample.yaml", words)
    dataset = build_dataset(config.data)
    found = look_at_data(config.data, dataset, samples=8000, time_limit_s=60.0)
    assert found.findings == (), os.linesep.join(map(str, found.findings))
    assert reserved_ids(config.data, dataset)["cat_3"] == {0, 1}  # which the look at the data would otherwise be about
