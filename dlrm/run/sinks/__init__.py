"""Where the figures of a run go beside its own folder (``logging.sinks``): services that draw and compare runs.

A sink is one file with a :class:`~dlrm.run.sinks.base.Sink`, its name in :mod:`dlrm.config.run`, and a case in
:mod:`dlrm.run.sinks.build`. Whatever becomes of it, training goes on.
"""
