"""Looking over the shoulder of torchelastic's agent, which has no place to hook in: methods of it are wrapped here.

What is leaned on, all of it of torch.distributed.elastic and none of it promised:

* ``LocalElasticAgent._monitor_workers(worker_group)`` is called about ten times a second and returns a RunResult with the
  failures by global rank; ``._restart_workers(worker_group)`` starts all ranks of the host again, and
  ``._rendezvous(worker_group)`` meets the other hosts before that;
* its ``_pcontext.pids()``, ``_remaining_restarts`` and ``_shutdown(timeout=...)``; the group's ``spec.rdzv_handler`` and
  ``spec.max_restarts``;
* ``SubprocessContext._close`` ends the ranks; ``subprocess_handlers`` are those that it ends, ``_failures`` by local rank
  those that had failed before, and ``envs`` the environments of all.

``tests/unit/contracts/`` holds torch to it, and says by name what a new version has changed.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, Protocol


class Watcher(Protocol):
    """Who is told of what the agent does."""

    def looking(self, pids: Collection[int], rendezvous: Any, restarts_left: int) -> None:
        """The agent is about to look at the ranks of this host, which are these processes."""

    def seen(self, failures: Mapping[int, Any]) -> bool:
        """It has seen these failures (ProcessFailure by global rank), or none. False: no restart can help."""

    def ending(self, pids: Collection[int], failures: Mapping[int, Any]) -> None:
        """It is about to end these processes, which still run, because of these failures (as for ``seen``) or of none."""

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
    meet = agent_class._rendezvous

    def monitored(agent: Any, group: Any) -> Any:
        watcher.looking(agent._pcontext.pids().values(), group.spec.rdzv_handler, agent._remaining_restarts)
        result = monitor(agent, group)
        if not watcher.seen(result.failures):
            agent._remaining_restarts = 0
        return result

    def closed(context: Any, *given: Any, **named: Any) -> None:
        processes = [handler.proc for handler in context.subprocess_handlers.values()]
        failures = {int(context.envs[rank]["RANK"]): failure for rank, failure in context._failures.items()}
        watcher.ending([process.pid for process in processes if process.poll() is None], failures)
        close(context, *given, **named)

    def restarted(agent: Any, group: Any) -> None:
        if watcher.restarting(group.spec.rdzv_handler, agent._remaining_restarts):
            agent._shutdown(timeout=shutdown_s)
        restart(agent, group)

    def met(agent: Any, group: Any) -> None:
        # Each agent counts the restarts that were needed because of its own ranks, and ranks take the count for the number
        # of their start, in which all of them must agree.
        handler, most = group.spec.rdzv_handler, group.spec.max_restarts
        handler.restarts = most - agent._remaining_restarts
        meet(agent, group)
        agent._remaining_restarts = max(0, most - handler.restarts)

    agent_class._monitor_workers, agent_class._restart_workers = monitored, restarted
    agent_class._rendezvous = met
    context_class._close = closed
