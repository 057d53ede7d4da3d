"""Where the jobs of a command run: on this host, or in a scheduler."""

from __future__ import annotations

from typing import Self

from pydantic import model_validator

from dlrm.config.base import Advanced, PositiveFloat, Section

LOCAL = "local"


class JobsConfig(Section):
    """What the commands that start jobs have in common."""

    scheduler: str = LOCAL
    """Where the jobs run: local (this host), or a scheduler of torchx: slurm, kubernetes, aws_batch, ray."""
    scheduler_args: str = ""
    """Settings of the scheduler, as of torchx run -cfg: partition=main,time=60."""
    component_args: str = ""
    """Further arguments of the component in components/dlrm.py, as one text behind an equals sign:
    --component_args='--cpu 8 --gpu 0 --image IMAGE'."""
    timeout_s: PositiveFloat | None = None
    """Seconds after which a job is ended, in the place of the file's."""
    retry: bool = True
    """Run again what has failed before; false: it stays failed."""
    dry_run: bool = False
    """Check the file, show what it is made of, and run nothing."""
    poll_s: Advanced[PositiveFloat] = 0.2
    """Seconds between two looks at the jobs."""

    @model_validator(mode="after")
    def _arguments_have_a_scheduler(self) -> Self:
        if self.scheduler == LOCAL and (self.scheduler_args or self.component_args):
            raise ValueError(
                "scheduler_args and component_args are for a scheduler: set scheduler, too (scheduler=slurm)"
            )
        return self
