"""Packed data sets: memory-mapped NumPy files, with or without a manifest, on this host or remote."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from dlrm.config.base import ColumnsIfAny, NamesIfAny, NonNegativeInt, Section, Sizes, check_tasks
from dlrm.config.data.paths import InputPath

BadRows = Literal["error", "hash", "clamp", "skip"]


class PartSplit(Section):
    """Which parts are for what.

    An entry is a part (``day_0``), a range (``day_0..day_22``) or rows of a part: ``day_23[:0.5]`` and ``day_23[0.5:]``
    are its halves (fractions are rounded up), ``day_23[:1000]`` its first rows. All empty: the data set's own split or,
    where it has none, all parts but the last for training and the halves of the last for validation and test.
    """

    train: NamesIfAny = ()
    """Parts to train on."""
    validation: NamesIfAny = ()
    """Parts to validate on."""
    test: NamesIfAny = ()
    """Parts to test on."""

    @model_validator(mode="after")
    def _train_with_others(self) -> Self:
        if (self.validation or self.test) and not self.train:
            raise ValueError("names parts to validate or test on, but none to train on: name those as well")
        return self


class OneHot(Section):
    """One id a feature, as in ``<part>_sparse.npy``."""

    kind: Literal["one_hot"] = "one_hot"


class MultiHotFiles(Section):
    """Several ids a feature, read from ``<part>_sparse_multi_hot.npz`` (keys 0 .., int32 (rows, hotness))."""

    kind: Literal["files"] = "files"


class _MadeMultiHot(Section):
    hotness: Sizes
    """Ids per sample of each sparse feature, the stored one included; a single number is meant for all."""
    distribution: Literal["uniform", "pareto"] = "uniform"
    """How the further ids of a bag are distributed over their table."""


class MlperfMultiHot(_MadeMultiHot):
    """MLPerf DLRM-DCNv2's synthetic multi-hot ids, made from the one-hot ones by its published recipe, without files.

    The recipe looks the further ids up by the stored one, 4 bytes * rows * (hotness - 1) a table (MLPerf: 21 GiB in all,
    drawn in a minute or two). Up to 64 MiB every process holds its own; more is a file in cache_dir, which later runs
    use again and whose pages all processes of a host share.
    """

    kind: Literal["mlperf"] = "mlperf"
    seed: Annotated[NonNegativeInt, Field(lt=2**32)] = 0
    """Seed of the recipe's generator (MLPerf: 0)."""
    cache_dir: str = "~/.cache/dlrm"
    """Folder of the lookup tables: a fast local disk with room for them, best no larger than the host's memory."""


class HashedMultiHot(_MadeMultiHot):
    """Multi-hot ids made from the one-hot ones by a hash of (table, id, position), without files or lookup memory."""

    kind: Literal["hashed"] = "hashed"
    seed: NonNegativeInt = 0
    """Another seed, other ids."""


class PackedData(Section):
    """Packed data: ``<part>_dense.npy``, ``<part>_sparse.npy``, ``<part>_labels.npy`` and dataset.json.

    Written by ``dlrm_main.py preprocess``; folders of facebookresearch/dlrm's and torchrec's scripts, which have no
    dataset.json, are read as well. Files are memory-mapped, so ranks of a host share one copy.
    """

    kind: Literal["packed"] = "packed"
    path: InputPath
    """Folder of the data set, or its URL: http://, https:// or, where boto3 is installed, s3://."""
    cache_dir: str = "~/.cache/dlrm"
    """Where files of a remote data set are kept on this host."""
    rows: Sizes | None = None
    """Table size of each sparse feature, where dataset.json does not say or says otherwise; a single number is meant for
    all. Smaller tables than it says need bad_rows (MLPerf: 40,000,000 rows at most, bad_rows hash)."""
    tasks: ColumnsIfAny = ()
    """Names of the columns of ``<part>_labels.npy``, of several that dataset.json does not name. The first decides
    which checkpoint is the best. -1 is a label that is missing: the sample trains the other tasks."""
    sample_weights: bool = False
    """Multiply the losses of each sample by its weight in ``<part>_weights.npy``, float32 (rows,), finite numbers from 0
    on; the sum is still divided by the number of samples. A weight of 0 is as if the sample were not there."""
    split: PartSplit = PartSplit()
    multi_hot: Annotated[
        OneHot | MultiHotFiles | MlperfMultiHot | HashedMultiHot, Field(discriminator="kind")
    ] = OneHot()  # fmt: skip
    bad_rows: BadRows = "error"
    """What to do about an id outside of its table: error; hash: the id modulo the table's rows; clamp: the nearest
    valid id; skip: leave out the sample. Other faults (a dense value that is not finite, a label other than 0 and 1) are
    errors unless skipped. What was changed is counted by table and reported."""

    @model_validator(mode="after")
    def _path_is_given(self) -> Self:
        if not self.path:
            raise ValueError("path is empty: name the folder of the data set")
        check_tasks(self.tasks)
        return self
