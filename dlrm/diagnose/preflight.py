"""The look at samples before training."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass

from dlrm.config.data import DataConfig, PackedData, PlantedData, RandomData
from dlrm.data.packed.naming import read_manifest
from dlrm.data.packed.raw_encoding import encoding_of_data, recorded_reserved_ids
from dlrm.data.packed.remote import is_remote
from dlrm.data.raw.vocabulary import MISSING_ID, NO_ID, HashedIds, Vocabulary
from dlrm.data.source import Dataset
from dlrm.diagnose.columns import judge_columns
from dlrm.diagnose.finding import Finding
from dlrm.diagnose.labels import Split, judge_labels
from dlrm.diagnose.overlap import Overlap, find_overlaps, judge_overlap
from dlrm.diagnose.sample import Deadline, sample_rows
from dlrm.format import counted

_OF_SAMPLES = 0.5  # of the time, for samples; the rest is for the comparison of splits


@dataclass(frozen=True)
class Preflight:
    """What was looked at and what was found.

    Attributes:
        looked_at: in a few words; findings: warnings first.
        overlaps: of the splits that are not trained on with training.
    """

    looked_at: str
    findings: tuple[Finding, ...]
    overlaps: tuple[Overlap, ...] = ()


def look_at_data(config: DataConfig, dataset: Dataset, *, samples: int, time_limit_s: float) -> Preflight:
    """Look at samples of all splits.

    Args:
        config: the section ``data``.
        dataset: that was built from it.
        samples: training samples to look at.
        time_limit_s: after which nothing more is read. What was read is judged to the end.

    Raises:
        DataError: a sample cannot be read, or must not be trained on.
    """
    if isinstance(config, RandomData):
        return Preflight("nothing: labels of data.kind random are noise (AUC 0.5), for measuring speed", ())
    deadline = Deadline(time_limit_s)
    reading = deadline.share(_OF_SAMPLES)
    train = sample_rows(dataset.train, samples, reading)
    others = [
        Split(name, sample_rows(source, max(1, samples // 2), reading))
        for name, source in (("validation", dataset.validation), ("test", dataset.test))
        if source.num_samples
    ]
    findings = [*judge_labels(train, others)]
    findings += judge_columns(train, reserved=reserved_ids(config, dataset), samples=dataset.train.num_samples)
    overlaps = find_overlaps(dataset.train, train, others, deadline)
    findings += filter(None, map(judge_overlap, overlaps))
    looked_at = f"{len(train):,} of {counted(dataset.train.num_samples, 'training sample')}"
    for split in others:
        looked_at += f", {len(split.rows):,} {split.name} samples"
    if overlaps:
        looked_at += f"; these were looked for among {overlaps[0].read:,} training samples"
    if train.wanted > len(train) and reading.is_over():
        looked_at += f" (time was up: {time_limit_s:g} s)"
    return Preflight(looked_at, tuple(sorted(findings, key=lambda one: one.level != "warning")), tuple(overlaps))


def reserved_ids(config: DataConfig, dataset: Dataset) -> Mapping[str, frozenset[int]]:
    """By feature the ids that stand for a missing or unseen value and for no other, as far as the data say so."""
    if isinstance(config, PlantedData):  # generated, nothing is missing
        return {feature.name: frozenset(range(min(3, feature.rows))) for feature in dataset.schema.sparse}
    if isinstance(config, PackedData):
        if is_remote(config.path):  # its vocabularies may be large
            return {}
        folder = os.path.expanduser(config.path)
        manifest = read_manifest(folder)
        return {} if manifest is None else recorded_reserved_ids(manifest, folder)
    encoding = encoding_of_data(config, dataset.train)
    if encoding is None:
        return {}
    categories = [*encoding.categories.values(), *encoding.buckets]
    found: dict[str, frozenset[int]] = {}
    for feature, one in zip(encoding.sparse, categories, strict=True):
        if isinstance(one, Vocabulary):
            found[feature.name] = frozenset({one.missing, one.unseen} - {NO_ID})
        elif isinstance(one, HashedIds):
            found[feature.name] = frozenset({MISSING_ID})
    return found
