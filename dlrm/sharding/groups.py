"""Which ranks share a copy of the tables: the layout of 2D parallelism, by numbers alone.

Terms: a *group* is the ranks that share one *copy* of the tables (torchrec's sharding group), a *position* is a rank's
place in its group. Plans are made for one group, and the ranks in them are positions. The ranks at one position, one of
each group, hold the same part of different copies: they are *peers* (torchrec's replica group).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, replace

from dlrm.config.sharding import ShardingConfig
from dlrm.distributed.world import RankInfo, World
from dlrm.errors import ConfigError, PlanError

DEVICES_WITH_COPIES: tuple[str, ...] = ("cuda",)  # torchrec's DMPCollection asserts one of these (or mtia)


@dataclass(frozen=True)
class Groups:
    """Ranks in groups of one size.

    Attributes:
        world_size: all ranks; size: of a group.
        consecutive: whether the ranks of a group follow each other; otherwise they are as far apart as there are groups.
    """

    world_size: int
    size: int
    consecutive: bool = False

    @property
    def copies(self) -> int:
        """Number of groups, and so of copies."""
        return self.world_size // self.size

    def copy_of(self, rank: int) -> int:
        """Which copy a rank has a part of."""
        return rank // self.size if self.consecutive else rank % self.copies

    def position_of(self, rank: int) -> int:
        """A rank's place in its group."""
        return rank % self.size if self.consecutive else rank // self.copies

    def rank_at(self, copy: int, position: int) -> int:
        """The rank at a place in a group."""
        return copy * self.size + position if self.consecutive else position * self.copies + copy

    def ranks_of(self, copy: int) -> list[int]:
        """The ranks that share a copy, by position, which is in ascending order."""
        return [self.rank_at(copy, position) for position in range(self.size)]

    def peers_at(self, position: int) -> list[int]:
        """The ranks with the same part of each copy, by copy."""
        return [self.rank_at(copy, position) for copy in range(self.copies)]

    def in_each(self, positions: Iterable[int]) -> list[tuple[int, ...]]:
        """The ranks at these positions, of each group in turn."""
        wanted = tuple(positions)
        return [tuple(self.rank_at(copy, position) for position in wanted) for copy in range(self.copies)]

    def per_host(self, ranks_per_host: int) -> int:
        """How many ranks of a group a host has: torchrec's node_group_size.

        1 where hosts have unlike numbers of them; then the planner takes each rank for a host of its own.
        """
        counts = {
            count
            for copy in range(self.copies)
            for count in Counter(rank // ranks_per_host for rank in self.ranks_of(copy)).values()
        }
        return counts.pop() if len(counts) == 1 else 1

    def seen_from(self, world: World) -> World:
        """A rank's group as if it were all the ranks there are: the world that a plan is made for."""
        local = self.per_host(world.rank_info.local_world_size)
        position = self.position_of(world.rank)
        return replace(world, rank_info=RankInfo(position, self.size, position % local, local))


def one_group(world_size: int) -> Groups:
    """All ranks share the one copy there is."""
    return Groups(world_size, world_size)


def groups_of(config: ShardingConfig, world: World) -> Groups:
    """The groups that are asked for; the same on every rank.

    Raises:
        ConfigError: the ranks do not divide into such groups, or the device has no copies.
        PlanError: hosts with unlike numbers of ranks.
    """
    size = config.group_size
    if size is None:
        if config.sync_steps > 1:
            message = "is about several copies of the tables, and there is one; set sharding.group_size as well"
            raise ConfigError.at("sharding.sync_steps", message)
        return one_group(world.size)
    if world.size % size:
        message = (
            f"is {size}, and {world.size} ranks do not divide into groups of {size}; use a divisor of {world.size}"
        )
        raise ConfigError.at("sharding.group_size", message)
    groups = Groups(world.size, size, consecutive=config.inter_host_sync)
    if groups.copies > 1 and world.device.type not in DEVICES_WITH_COPIES:
        message = (
            f"asks for {groups.copies} copies of the tables, which torchrec has on CUDA only, and the device is "
            f"{world.device.type}; leave it out"
        )
        raise ConfigError.at("sharding.group_size", message)
    ranks_per_host = world.rank_info.local_world_size
    if groups.copies > 1 and world.size % ranks_per_host:
        raise PlanError(f"{world.size} ranks do not divide into hosts of {ranks_per_host}; start as many on every host")
    return groups


def copies_lines(config: ShardingConfig, world: World) -> list[str]:
    """What a run with several copies of the tables trains, in words; nothing where there is one."""
    groups = groups_of(config, world)
    if groups.copies == 1:
        return []
    every = "each step" if config.sync_steps == 1 else f"every {config.sync_steps} steps"
    ranks = groups.ranks_of(0)
    return [
        f"sharding.group_size {groups.size}: {groups.copies} copies of the tables, the first on ranks "
        f"{', '.join(map(str, ranks[:4]))}{', ...' if len(ranks) > 4 else ''}. Each copy learns from its own ranks' "
        f"samples, and {every} the copies' weights and optimizer states are averaged, which is another algorithm than one "
        "copy (docs/sharding.md, Several copies)"
    ]
