"""How tables are divided over the ranks, and what the planner is told about the hardware."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from dlrm.config.base import AS_LIST, Advanced, Fraction, Number, PositiveFloat, PositiveInt, Section, Share
from dlrm.config.data.paths import InputPath

ShardingKind = Literal[
    "data_parallel", "table_wise", "column_wise", "row_wise", "table_row_wise", "table_column_wise", "grid_shard"
]
Kernel = Literal["dense", "fused", "fused_uvm", "fused_uvm_caching"]
ShardingKinds = Annotated[tuple[ShardingKind, ...], *AS_LIST]
Kernels = Annotated[tuple[Kernel, ...], *AS_LIST]


Gib = Annotated[PositiveFloat, Field(le=2**30)]
GibPerSecond = Annotated[float, Number, Field(ge=1e-6, le=2**30)]


class TableSharding(Section):
    """Constraints for one table; what is left out follows the general ones."""

    types: ShardingKinds | None = None
    """Sharding types the planner may choose from."""
    kernels: Kernels | None = None
    """Compute kernels the planner may choose from."""
    cache_share: Share | None = None
    """What it weighs in the cache that tables share under fused_uvm_caching: that is as large as the mean of their shares,
    weighted by rows. CUDA only."""


class ShardingConfig(Section):
    """How many copies of the tables there are; constraints and hardware figures for torchrec's EmbeddingShardingPlanner."""

    group_size: PositiveInt | None = None
    """Ranks that share a copy of the tables (2D parallelism; torchrec's sharding_group_size). The world size divided by it
    is the number of copies, each of which learns from its own ranks' samples, and which are averaged every sync_steps
    steps. All ranks share one copy if left out. Several need CUDA, and are another algorithm (docs/sharding.md)."""
    sync_steps: PositiveInt = 1
    """Every how many steps copies average weights and optimizer states; for evaluations and checkpoints they do so, too."""
    inter_host_sync: bool = False
    """Let consecutive ranks share a copy, so that ids and embeddings stay on few hosts and copies are averaged between them
    (torchrec's use_inter_host_allreduce). Otherwise ranks of a host hold the same part of different copies, which are
    averaged there, and ids and embeddings go between hosts."""
    types: ShardingKinds = ("table_wise", "row_wise", "table_row_wise", "data_parallel")
    """Sharding types the planner may choose from, for every table."""
    kernels: Kernels | None = None
    """Compute kernels the planner may choose from; all that the device offers if left out."""
    cache_share: Share = 0.2
    """Share of the rows of tables under fused_uvm_caching that the device caches: more is faster, and takes device memory.
    CUDA only."""
    min_column_width: Advanced[PositiveInt] = 4
    """Narrowest column shard (a multiple of 4 for fbgemm's kernels)."""
    tables: dict[str, TableSharding] = Field(default_factory=dict)
    """Constraints for single tables, by name."""
    id_statistics: InputPath = ""
    """How ids are spread (what `inspect --id_statistics FILE` wrote): the planner weighs tables by the ids that samples
    have in the mean, and caches by what they hold of the lookups. Hotness and uniform ids if left out."""
    device_memory_gib: Gib | None = None
    """Memory a rank may use for tables and activations; the device's (on CPU: its share of the host's) if left out."""
    host_memory_gib: Gib | None = None
    """Host memory a rank may use for tables kept there (fused_uvm kernels); the host's share if left out.
    CUDA only."""
    reserve_fraction: Advanced[Fraction] = 0.15
    """Share of the memory the planner leaves free."""
    device_gib_s: Advanced[GibPerSecond | None] = None
    """Bandwidth of a device's memory, GiB/s; by the device's name, or torchrec's default, if left out. CUDA only."""
    host_gib_s: Advanced[GibPerSecond | None] = None
    """Bandwidth of a host's memory for one rank, GiB/s; torchrec's default if left out."""
    host_to_device_gib_s: Advanced[GibPerSecond | None] = None
    """Bandwidth between a device and its host's memory, GiB/s; as device_gib_s if left out. CUDA only."""
    intra_host_gib_s: Advanced[GibPerSecond | None] = None
    """Bandwidth between two devices of a host, one direction, GiB/s; as device_gib_s if left out."""
    inter_host_gib_s: Advanced[GibPerSecond | None] = None
    """Bandwidth between two hosts for one device, one direction, GiB/s; as device_gib_s if left out."""
