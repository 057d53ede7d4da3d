"""Looking over the shoulder of torchelastic's agent, which has no place to hook in: methods of it are wrapped here.

What is leaned on, all of it of torch.distributed.elastic and none of it promised:

* ``LocalElasticAgent._monitor_workers(worker_group)`` is called about ten times a second and returns a RunResult with the
  failures by global rank; ``._restart_workers(worker_group)`` starts all ranks of the host again;
* its ``_pcontext.pids()``, ``_remaining_restarts`` and ``_shutdown(timeout=...)``; the group's ``spec.rdzv_handler``;
* ``SubprocessContext._close`` ends the ranks; ``subprocess_handlers`` are those that it ends.

``tests/unit/contracts/`` holds torch to it, and says by name what a new version has changed.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, Protocol


class Watcher(Protocol):
    """Who is told of what the agent does."""

    def looking(self, pids: Collection[int]) -> None:
        """The agent is about to look at the ranks of this host, which are these processes."""

    def seen(self, failures: Mapping[int, Any]) -> bool:
        """It has seen these failures (ProcessFailure by global rank), or none. False: no restart can help."""

    def ending(self, pids: Collection[int]) -> None:
        """It is about to end these processes, which still run."""

    def restarting(self, rendezvous: Any, restarts_left: int) -> bool:
        """It is about to start all ranks again. True: end those that still run at once."""


def watch(watcher: Watcher, *, shutdown_s: int) -> None:
    """Have every agent of this process tell ``watcher``; for good.

    Args:
        watcher: who is told.
        shutdown_s: what ranks get to end where the watcher asks for it.
    """
    from torch.distributed.elastic.agent.server import local_elastic_agent  # takes seconds
    from torch.distributed.elastic.multiprocessing.api import SubprocessContext

    agent_class: Any = local_elastic_agent.LocalElasticAgent
    context_class: Any = SubprocessContext
    monitor, restart, close = agent_class._monitor_workers, agent_class._restart_workers, context_class._close

    def monitored(agent: Any, group: Any) -> Any:
        watcher.looking(agent._pcontext.pids().values())
        result = monitor(agent, group)
        if not watcher.seen(result.failures):
            agent._remaining_restarts = 0
        return result

    def closed(context: Any, *given: Any, **named: Any) -> None:
        processes = [handler.proc for handler in context.subprocess_handlers.values()]
        watcher.ending([process.pid for process in processes if process.poll() is None])
        close(context, *given, **named)

    def restarted(agent: Any, group: Any) -> None:
        if watcher.restarting(group.spec.rdzv_handler, agent._remaining_restarts):
            agent._shutdown(timeout=shutdown_s)
        restart(agent, group)

    agent_class._monitor_workers, agent_class._restart_workers = monitored, restarted
    context_class._close = closed
