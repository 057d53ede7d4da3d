"""How an export's tables can be mixed, and what a mix does to the logits of samples.

A *mix* is a precision for each table. A table's columns of the pooled embeddings do not depend on the other tables, so the
tables are looked up in each precision once, and a mix takes each table's columns from one of these.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from dlrm.inference.exported.manifest import DensePrecision, Manifest, Precision
from dlrm.inference.exported.tiles import padded, pieces_of
from dlrm.inference.quantise.choice import possible
from dlrm.inference.quantise.scores import Scored, log_losses, require_labels
from dlrm.inference.quantise.variants import Variants

Mix = tuple[Precision, ...]
PRECISIONS: tuple[Precision, ...] = ("fp32", "fp16", "int8", "int4")
"""From the largest to the smallest."""


def choices(manifest: Manifest) -> list[tuple[Precision, ...]]:
    """The precisions that each table can have, from the largest to the smallest."""
    return [
        tuple(dict.fromkeys(possible(precision, table.dim) for precision in PRECISIONS)) for table in manifest.tables
    ]


def table_bytes(manifest: Manifest, mix: Mix) -> int:
    """Bytes of all rows."""
    return sum(size_of(manifest, number, precision) for number, precision in enumerate(mix))


def size_of(manifest: Manifest, number: int, precision: Precision) -> int:
    """Bytes of the rows of a table."""
    table = manifest.tables[number].model_copy(update={"precision": precision})
    return table.row_bytes * manifest.named_tables[number].rows


@dataclass(frozen=True)
class Cost:
    """What a mix does on samples.

    Attributes:
        rise: of the log loss, against the export as it is; of several tasks that which rises most.
        divergence: mean Kullback-Leibler divergence in nats of the new probabilities from those before the tables were
            lowered: the rise to be expected if those were the true ones, whatever the labels of these samples.
    """

    rise: float
    divergence: float


class MixScorer:
    """Measures mixes; what was measured once is remembered.

    Args:
        variants: of the export.
        dense: precision of the dense part in all mixes.
        scored: the samples.

    Raises:
        ConfigError: no sample has a label: every mix would keep any budget.
        ExportError: there is too little memory for the tables in each precision, or a row cannot be stored so.
    """

    def __init__(self, variants: Variants, dense: DensePrecision, scored: Scored) -> None:
        require_labels(scored)
        manifest = variants.folder.manifest
        self._scored = scored
        self._dense = variants.dense(dense)
        used = sorted({precision for table in choices(manifest) for precision in table}, key=PRECISIONS.index)
        uniform = [[possible(precision, table.dim) for table in manifest.tables] for precision in used]
        self._lookups = dict(zip(used, variants.lookups(uniform), strict=True))
        self._table_of_X = torch.tensor(manifest.tables_of_columns)
        self._reference_T = log_losses(variants.base.logits(scored.features), scored)
        self.plain = tuple(possible("fp32", table.dim) for table in manifest.tables)
        (self._before_RT,) = self._logits([self.plain])
        self._known: dict[Mix, Cost] = {}

    def costs(self, mixes: Sequence[Mix]) -> list[Cost]:
        """What each mix does."""
        unknown = [mix for mix in dict.fromkeys(mixes) if mix not in self._known]
        for mix, logits_RT in zip(unknown, self._logits(unknown), strict=True):
            rise = float((log_losses(logits_RT, self._scored) - self._reference_T).max())
            self._known[mix] = Cost(rise, self._divergence(logits_RT))
        return [self._known[mix] for mix in mixes]

    def _divergence(self, logits_RT: torch.Tensor) -> float:
        before_RT, after_RT = self._before_RT.double(), logits_RT.double()
        softplus = torch.nn.functional.softplus
        # p log(p / p') + (1 - p) log((1 - p) / (1 - p')), of logits
        terms_RT = softplus(after_RT) - softplus(before_RT) - before_RT.sigmoid() * (after_RT - before_RT)
        return max(0.0, float(terms_RT.mean(0).max()))

    @torch.no_grad()
    def _logits(self, mixes: Sequence[Mix]) -> list[torch.Tensor]:
        """The logits of all samples in each mix, float32 (R, T)."""
        if not mixes:
            return []
        columns = [self._columns(mix) for mix in mixes]
        needed = [precision for precision in self._lookups if any(precision in parts for parts in columns)]
        found: list[list[torch.Tensor]] = [[] for _ in mixes]
        for features in pieces_of(self._scored.features):
            dense_BN = padded(features.dense_BN)
            pooled = {precision: self._lookups[precision](features, len(dense_BN)) for precision in needed}
            for parts, logits in zip(columns, found, strict=True):
                logits.append(self._dense(dense_BN, _mixed(pooled, parts))[: len(features)])
        return [torch.cat(logits) for logits in found]

    def _columns(self, mix: Mix) -> dict[Precision, torch.Tensor]:
        """Which columns come from which precision, bool (X,)."""
        codes_X = torch.tensor([PRECISIONS.index(precision) for precision in mix])[self._table_of_X]
        return {precision: codes_X == PRECISIONS.index(precision) for precision in dict.fromkeys(mix)}


def _mixed(pooled: dict[Precision, torch.Tensor], parts: dict[Precision, torch.Tensor]) -> torch.Tensor:
    """(B, X)."""
    (first, _), *others = parts.items()
    mixed_BX = pooled[first]
    for precision, columns_X in others:
        mixed_BX = torch.where(columns_X, pooled[precision], mixed_BX)
    return mixed_BX
