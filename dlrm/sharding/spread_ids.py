"""How ids are spread, as torchrec's planner is told of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torchrec.distributed.planner import ParameterConstraints
from torchrec.distributed.types import CacheStatistics

from dlrm.data.id_statistics.base import IdStatistics, UniformIds
from dlrm.lookups.plan import Lookups
from dlrm.lookups.rule import IDS
from dlrm.schema import SparseFeature
from dlrm.table_names import table_name

_PARTS = 20
_FEWEST_IDS = 1e-3  # of a sample; a table that is never asked is weighed as one that seldom is


@dataclass(frozen=True)
class CachedIds(CacheStatistics):  # type: ignore[misc]  # torchrec is untyped here
    """Of a table behind a cache.

    Attributes:
        ids: how they are spread; lookups: distinct ones of a global batch.
    """

    ids: IdStatistics
    lookups: float

    @property
    def expected_lookups(self) -> float:
        """Distinct ids of a global batch."""
        return self.lookups

    def expected_miss_rate(self, clf: float) -> float:
        """Share of the lookups that a cache of so large a share of the rows does not hold, if it holds the hottest."""
        return 1.0 if clf <= 0 else max(0.0, 1.0 - self.ids.hot_share(min(1.0, clf)))

    @property
    def cacheability(self) -> float:
        """The mean of the miss rate over all sizes of a cache: 0 if a small one has all, 1/2 of uniform ids."""
        return sum(self.expected_miss_rate((part + 0.5) / _PARTS) for part in range(_PARTS)) / _PARTS


def spread_of_lookups(lookups: Lookups, ids: Mapping[str, IdStatistics]) -> dict[str, IdStatistics]:
    """How the rows of each lookup are spread, by its name: as the ids where they are the ids, else uniformly.

    Hashes spread ids evenly. Ids of a feature whose table has more rows for the sake of others are taken for those of all.

    Args:
        lookups: of a model.
        ids: how ids are spread, by feature.
    """
    rows = {table.name: table.rows for table in lookups.tables}
    found: dict[str, IdStatistics] = {}
    for lookup in lookups.lookups:
        known = ids[lookups.features.sparse[lookup.feature].name]
        if lookup.rule == IDS and known.rows == rows[lookup.table]:
            found[lookup.name] = known
        else:
            found[lookup.name] = UniformIds(rows[lookup.table], known.ids_per_sample * lookup.rule.rows_per_id)
    return found


def spread_of_rows(lookups: Lookups, ids: Mapping[str, IdStatistics]) -> dict[str, IdStatistics]:
    """How the rows of each table are spread, by its name; see :func:`spread_of_lookups`.

    What features share a table is not known of each other, so that it is taken for one of uniform ids, as many as all have.
    """
    of_lookups = spread_of_lookups(lookups, ids)
    found: dict[str, IdStatistics] = {}
    for table in lookups.tables:
        own = [of_lookups[name] for name in table.lookups]
        found[table.name] = own[0] if len(own) == 1 else UniformIds(table.rows, sum(one.ids_per_sample for one in own))
    return found


def add_statistics(
    constraints: Mapping[str, ParameterConstraints],
    known: Mapping[str, IdStatistics],
    features: Mapping[str, Sequence[SparseFeature]],
    *,
    samples: int,
) -> None:
    """Weigh tables by how their ids are spread.

    Args:
        constraints: by module name; tables that are cached get what caches hold.
        known: statistics, by lookup.
        features: lookups of each table. Of several the one that looks most up says what a cache holds.
        samples: whose ids are looked up at once, of all ranks that share the tables.
    """
    for module, constraint in constraints.items():
        of_table = [known[feature.name] for feature in features[table_name(module)]]
        constraint.pooling_factors = [max(statistics.ids_per_sample, _FEWEST_IDS) for statistics in of_table]
        if constraint.cache_params is not None:
            lookups = [statistics.distinct(samples * statistics.ids_per_sample) for statistics in of_table]
            most = of_table[lookups.index(max(lookups))]
            constraint.cache_params.stats = CachedIds(most, sum(lookups))
