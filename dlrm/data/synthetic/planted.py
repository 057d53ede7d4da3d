"""Planted data: Criteo-shaped samples, drawn on the fly, whose labels come from a hidden model that is known.

Because the true click probability of every sample is known, so is the best AUC that any model can reach: that of
:meth:`PlantedSource.true_logits` on the same samples. A trainer that works comes close to it; one that loses samples,
shifts labels or updates the wrong rows does not.

Every sample is a pure function of (seed, split, index), bit for bit, in whatever portions it is read.
"""

from __future__ import annotations

import math
from dataclasses import replace

import torch

from dlrm.config.data import PlantedData
from dlrm.counter_rng import random_bits, stream_key, uniform64
from dlrm.data.fingerprint import FileFingerprint
from dlrm.data.source import Dataset, Samples, Source
from dlrm.data.synthetic.hidden_model import CHUNK_SAMPLES, HIGHEST_ORDER, Drawn, HiddenModel
from dlrm.data.synthetic.ids import Split, task_key
from dlrm.data.synthetic.weights import SAMPLE_WEIGHT, weights_of
from dlrm.schema import ONE_TASK, Schema


class PlantedSource(Source):
    """One split of a planted data set.

    Args:
        config: what to draw.
        split: the splits are independent draws of the same distribution.
        hidden: the hidden model of the same config, where it was built already.
    """

    def __init__(self, config: PlantedData, split: Split, hidden: HiddenModel | None = None) -> None:
        self._config = config
        self._split = split
        self._hidden = hidden if hidden is not None else HiddenModel(config)
        num_samples: int = {
            "train": config.train_samples,
            "validation": config.validation_samples,
            "test": config.test_samples,
        }[split]
        schema = Schema.numbered(config.num_dense, config.rows, tasks=config.tasks or ONE_TASK)
        if config.sample_weights:
            schema = replace(schema, sample_weight=SAMPLE_WEIGHT)
        if self._hidden.draw.histories is not None:
            schema = replace(schema, sparse=schema.sparse + self._hidden.draw.histories.features)
        super().__init__(f"planted {split} data", schema, num_samples)
        tasks = range(len(schema.tasks))
        self._label_keys = [task_key(task, config.seed, "planted", split, "label") for task in tasks]
        self._weight_key = stream_key(config.seed, "planted", split, "weight")
        self._missing_keys = [task_key(task, config.seed, "planted", split, "missing") for task in tasks[1:]]

    def read(self, index_B: torch.Tensor) -> Samples:
        """The samples at these indices (int64, (B,)), in this order; ids_BS is a transposed view."""
        batch = len(index_B)
        dense_NB = torch.empty(self._config.num_dense, batch)
        ids_SB = torch.empty(self.schema.ids_per_sample, batch, dtype=torch.int64)
        features = len(self._config.rows)
        lengths_BF = None
        if self.schema.histories:
            lengths_BF = torch.ones(batch, len(self.schema.sparse), dtype=torch.int32)
        labels_BT = torch.empty(batch, len(self.schema.tasks))
        for start in range(0, batch, CHUNK_SAMPLES):
            chunk = slice(start, start + CHUNK_SAMPLES)
            drawn = self._hidden.draw(self._split, index_B[chunk])
            ids_SB[:features, chunk] = drawn.ids_FB
            if drawn.history is not None and lengths_BF is not None:
                ids_SB[features, chunk] = drawn.history.item_B
                ids_SB[features + 1 :, chunk] = drawn.history.ids_BL.t()
                lengths_BF[chunk, -1] = drawn.history.lengths_B
            dense_NB[:, chunk] = self._hidden.draw.dense.values(drawn.levels_NB)
            labels_BT[chunk] = self._labels(index_B[chunk], drawn)
        weights_B = weights_of(random_bits(self._weight_key, index_B)) if self._config.sample_weights else None
        return Samples(dense_NB.t().contiguous(), ids_SB.t(), labels_BT, lengths_BF=lengths_BF, weights_B=weights_B)

    def _labels(self, index_B: torch.Tensor, drawn: Drawn) -> torch.Tensor:
        """float32 (B, T), NaN where missing."""
        uniform_BT = torch.stack([uniform64(key, index_B) for key in self._label_keys], dim=1)
        # The last bit of sigmoid may depend on the vector lane; a 53-bit random number would have to fall on it.
        labels_BT = (uniform_BT < self._hidden.logits(drawn).sigmoid_()).to(torch.float32)
        if self._config.task_missing:
            for task, key in enumerate(self._missing_keys, start=1):
                labels_BT[uniform64(key, index_B) < self._config.task_missing, task] = math.nan
        return labels_BT

    def fingerprint(self) -> tuple[FileFingerprint, ...]:
        """No file: the options say all."""
        return ()

    def true_logits(self, index_B: torch.Tensor, order: int = HIGHEST_ORDER) -> torch.Tensor:
        """The hidden log-odds of each task's label at these indices; float64 (B, T).

        No score has a higher expected AUC than this one. Of its parts those that multiply at most ``order`` features: about
        the best score of a model that multiplies no more.
        """
        chunks = index_B.split(CHUNK_SAMPLES)
        return torch.cat([self._hidden.logits(self._hidden.draw(self._split, chunk_B), order) for chunk_B in chunks])


def planted_dataset(config: PlantedData) -> Dataset:
    """The three splits, with one hidden model between them."""
    hidden = HiddenModel(config)
    return Dataset(
        train=PlantedSource(config, "train", hidden),
        validation=PlantedSource(config, "validation", hidden),
        test=PlantedSource(config, "test", hidden),
    )
