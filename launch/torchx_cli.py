"""What ``torchx run`` was asked for, seen from within the component that it calls.

torchx gives a component its own arguments only. The scheduler, its settings (``-cfg``, .torchxconfig), ``--workspace`` and
``--dryrun`` are read here once more from the command line, by torchx's own parser and files.
"""

from __future__ import annotations

import argparse
import logging
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import PurePath
from typing import Any


@dataclass(frozen=True)
class Submission:
    """What a job is handed over with.

    Attributes:
        scheduler: its name in torchx; empty if it is not known (the component was called from Python).
        cfg: its settings, as far as they were given in .torchxconfig or by ``-cfg``.
        workspace: the folder or URL that torchx copies to where the job runs; empty: none.
        dryrun: the request is only shown.
        unknown: names in ``-cfg`` that the scheduler does not have, which torchx passes over.
        known: those that it has.
    """

    scheduler: str = ""
    cfg: Mapping[str, Any] = field(default_factory=dict)
    workspace: str = ""
    dryrun: bool = False
    unknown: tuple[str, ...] = ()
    known: tuple[str, ...] = field(default=(), compare=False)


def submission(argv: Sequence[str] | None = None) -> Submission | None:
    """What the command line of this process asks for; None if it is not torchx's, or not ``torchx run``."""
    program, *words = sys.argv if argv is None else argv
    if not _is_torchx(PurePath(program)):
        return None
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("--log_level")
    parser.add_argument("words", nargs=argparse.REMAINDER)
    rest = parser.parse_args(words).words
    if rest[:1] != ["run"]:
        return None
    from torchx.runner import config  # torchx has imported these by now; a caller in Python is spared them
    from torchx.schedulers import get_scheduler_factories

    options = _run_options(rest[1:])
    with _silence(config.__name__):  # torchx has said by now what is wrong with .torchxconfig
        opts = get_scheduler_factories()[options.scheduler](session_name="preflight").run_opts()
        cfg = dict(opts.cfg_from_str(options.scheduler_args))
        config.apply(scheduler=options.scheduler, cfg=cfg)
    given = {name: value for name, value in cfg.items() if value is not None}
    known = tuple(name for name, _ in opts)
    names = re.findall(r"(?:^|,)([^=,]+)=", options.scheduler_args or "")
    unknown = tuple(name for name in names if name not in known)
    return Submission(options.scheduler, given, options.workspace or "", options.dryrun, unknown, known)


def _is_torchx(program: PurePath) -> bool:
    return program.stem == "torchx" or program.parts[-3:] == ("torchx", "cli", "main.py")


def _run_options(words: Sequence[str]) -> argparse.Namespace:
    from torchx.cli.cmd_run import CmdRun
    from torchx.runner import config

    parser = _Again(add_help=False)
    CmdRun().add_arguments(parser)
    parser.set_defaults(**config.get_configs(prefix="cli", name="run"))
    return parser.parse_args(words)


class _Again(argparse.ArgumentParser):
    """A parser whose options may be parsed a second time: torchx's own actions take that for an option given twice."""

    def add_argument(self, *names: Any, **settings: Any) -> Any:
        """As argparse does, with its plain action in the place of torchx's."""
        if isinstance(settings.get("action"), type):
            del settings["action"]
        return super().add_argument(*names, **settings)


@contextmanager
def _silence(name: str) -> Iterator[None]:
    logger = logging.getLogger(name)
    before, logger.disabled = logger.disabled, True
    try:
        yield
    finally:
        logger.disabled = before
