"""The last look at samples before they are trained on: whatever the source, nothing bad reaches a device.

fbgemm's own bounds check would clamp a bad id to row 0 and train on it, and its verdict differs between sharding types.
"""

from __future__ import annotations

import torch

from dlrm.data.source import Samples
from dlrm.errors import DataError
from dlrm.schema import Schema


class SampleCheck:
    """Checks samples of one source against its schema.

    Args:
        schema: the columns; table sizes bound the ids.
        source_name: how errors call the source.
    """

    def __init__(self, schema: Schema, source_name: str) -> None:
        self._source_name = source_name
        self._dense_names = schema.dense
        self._id_columns = [feature.name for feature in schema.sparse for _ in range(feature.hotness)]
        self._rows_S = torch.tensor([feature.rows for feature in schema.sparse for _ in range(feature.hotness)])

    def __call__(self, samples: Samples, index_B: torch.Tensor) -> Samples:
        """Return ``samples`` unchanged.

        Args:
            samples: what the source gave.
            index_B: int64, the indices that were asked for; errors name index + 1 as the row.

        Raises:
            DataError: a dense value that is not finite, an id outside of its table, a label other than 0 and 1.
        """
        ids_BS, dense_BN, labels_B = samples.ids_BS, samples.dense_BN, samples.labels_B
        bad_ids_BS = (ids_BS < 0) | (ids_BS >= self._rows_S)
        if bad_ids_BS.any():
            at, column = bad_ids_BS.nonzero()[0].tolist()
            problem = f"id {ids_BS[at, column].item()} is outside of its table (0 .. {self._rows_S[column].item() - 1})"
            raise self._error(index_B, at, self._id_columns[column], problem, "enlarge the table or mend the data")
        if not dense_BN.isfinite().all():
            at, column = (~dense_BN.isfinite()).nonzero()[0].tolist()
            problem = f"{dense_BN[at, column].item()} is not finite"
            raise self._error(index_B, at, self._dense_names[column], problem, "mend the data")
        if not ((labels_B == 0) | (labels_B == 1)).all():
            at = int(((labels_B != 0) & (labels_B != 1)).nonzero()[0].item())
            raise self._error(index_B, at, "label", f"{labels_B[at].item()} is neither 0 nor 1", "mend the data")
        return samples

    def _error(self, index_B: torch.Tensor, at: int, column: str, problem: str, mend: str) -> DataError:
        return DataError(self._source_name, problem, row=int(index_B[at].item()) + 1, column=column, mend=mend)
