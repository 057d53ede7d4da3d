"""The interface between where samples come from and everything else.

A *source* is one split (training, validation or test) that can be read at any sample index. It knows nothing of
batches, ranks, epochs or shuffling: those are :mod:`dlrm.data.order`'s and :mod:`dlrm.data.loader`'s.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass

import torch

from dlrm.config.data.packed import BadRows
from dlrm.data.fingerprint import FileFingerprint
from dlrm.schema import Schema


@dataclass(frozen=True)
class Samples:
    """B decoded samples on the host, one row a sample.

    Attributes:
        dense_BN: float32 (B, N), finite.
        ids_BS: int32 or int64 (B, S), S = schema.ids_per_sample: the ids of feature 0, then those of feature 1, ...
        labels_BT: float32 (B, T), 0 or 1. NaN is the missing label of one of several tasks: the sample trains the others.
        lengths_BF: int32 (B, F), ids of each bag, at most the feature's hotness; None where every bag has as many as
            that. What lies beyond a bag's length in ``ids_BS`` is 0 and no id.
        weights_B: float32 (B,), not negative: what a sample's losses are multiplied by, 0 for one that is skipped; None
            where all weigh 1.
        id_weights_BS: float32 (B, S), not negative: what the embedding of each id is multiplied by, 1 for features whose
            ids have no weights; None where those of no feature have.
    """

    dense_BN: torch.Tensor
    ids_BS: torch.Tensor
    labels_BT: torch.Tensor
    lengths_BF: torch.Tensor | None = None
    weights_B: torch.Tensor | None = None
    id_weights_BS: torch.Tensor | None = None

    def __len__(self) -> int:
        return self.labels_BT.shape[0]


@dataclass(frozen=True)
class Day:
    """Consecutive samples of a split that belong together: those of a file, of a day.

    Attributes:
        name: of it; samples: how many, one at least.
    """

    name: str
    samples: int


class Source(ABC):
    """One split of a data set. A subclass reads and says by what its files are known; the rest it may leave as it is here.

    Attributes:
        name: how messages call it, e.g. a path.
        schema: the columns of a sample.
        num_samples: samples in the split; indices are 0 .. num_samples - 1.
        bad_rows: what becomes of bad values (:class:`~dlrm.data.check.SampleCheck`).
        null_id: the id that stands for an absent one, which messages call null; None: no id does.
        days_are_mixed: why its days are none, in words; empty if they are.
    """

    days_are_mixed: str = ""
    bad_rows: BadRows = "error"
    null_id: int | None = None

    def __init__(self, name: str, schema: Schema, num_samples: int) -> None:
        self.name = name
        self.schema = schema
        self.num_samples = num_samples

    @abstractmethod
    def read(self, index_B: torch.Tensor) -> Samples:
        """The samples at these indices, in this order. Several threads may read at once.

        Args:
            index_B: int64 (B,), each in 0 .. num_samples - 1.

        Raises:
            DataError: a sample cannot be read or must not be trained on.
        """

    @property
    def days(self) -> tuple[Day, ...]:
        """The parts of the split, in order; together they are all samples. One where it has no parts."""
        return (Day(self.name, self.num_samples),)

    def locate(self, index: int, column: str) -> tuple[str, int]:
        """Where a person finds the value of ``column`` (a name of the schema) of a sample.

        Returns:
            the file, or the name of what generates it, and the 1-based row in it.
        """
        return self.name, index + 1

    @abstractmethod
    def fingerprint(self) -> tuple[FileFingerprint, ...]:
        """The files that the samples are read from, in the order of the samples; none where they are generated.

        By it a run that goes on knows the data again. Little is read, however large the files are.

        Raises:
            DataError: a file cannot be read.
        """

    def vocabularies(self) -> Mapping[str, str]:
        """By column a digest of the values that its ids stand for, where ids follow from other files than the samples'.

        By it a model's rows are known to stand for the same values. None for columns whose files hold ids.
        """
        return {}

    def true_logits(self, index_B: torch.Tensor) -> torch.Tensor | None:
        """The log-odds by which the labels of the samples at these indices were drawn; float64 (B, T).

        No score has a higher expected AUC. None, for all samples of the split, where they are not known.
        """
        return None


@dataclass(frozen=True)
class Dataset:
    """The three splits of a data set; they share no sample."""

    train: Source
    validation: Source
    test: Source

    @property
    def schema(self) -> Schema:
        """The columns of a sample, the same in every split."""
        return self.train.schema
