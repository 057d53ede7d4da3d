"""Trainings that torchx submits to a Slurm, and what is done to them while they run."""

from __future__ import annotations

import json
import re
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import torch

from tests.support.elastic_job import ROOT, committed_steps, differing_tensors, saved_tensors
from tests.support.slurm import SlurmCluster

SAMPLE = ROOT.parent / "shared" / "data" / "criteo_kaggle_sample.tsv.gz"
_PARTS = ("components", "configs", "dlrm", "dlrm_main.py", "launch", "scripts", "tests", ".torchxconfig")
_ENDED = ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL", "PREEMPTED", "OUT_OF_MEMORY")
_LONGEST_S = 600.0
# A job that is requeued because it failed has failed for a moment; and hosts refuse it in the second in which it ended.
_REQUEUE_TAKES_S = 5.0
_POLL_S = 0.2


def training_options(*, epochs: int = 1, batch: int = 128) -> list[str]:
    """The Criteo sample, or generated clicks where it is absent; every table row-wise, so that there is only one plan."""
    data = ["--config", "configs/criteo_sample.yaml"] if SAMPLE.exists() else ["--config", "configs/quickstart.yaml"]
    more = ["--data.paths", str(SAMPLE)] if SAMPLE.exists() else ["--train.max_steps", "652"]
    return [
        *data,
        *more,
        *("--evaluation.test", "false"),
        *("--sharding.types", "row_wise", "--train.epochs", str(epochs), "--train.global_batch_size", str(batch)),
        *("--checkpoint.every_steps", "100", "--logging.tensorboard", "false", "--distributed.threads_per_rank", "1"),
    ]


@dataclass
class Submitted:
    """A training in Slurm.

    Attributes:
        cluster: where; place: the folder that it was submitted from and that Slurm's output files are in.
        job: its id in Slurm; run: the folder of its run.
    """

    cluster: SlurmCluster
    place: Path
    job: str
    run: Path

    @property
    def state(self) -> str:
        """As Slurm names it."""
        return self.cluster.state(self.job)

    @property
    def checkpoints(self) -> Path:
        """Their folder."""
        return self.run / "checkpoints"

    def output(self, *, most: int = 1500) -> str:
        """What the hosts and the batch script have printed: the last so many characters of each file."""
        files = sorted(self.place.glob(f"slurm-{self.job}*"))
        return "\n".join(f"--- {file.name}\n{file.read_text(errors='replace')[-most:]}" for file in files)

    def printed(self, host: int) -> str:
        """What a host has printed on standard error, as torchx numbers hosts."""
        return (self.place / f"slurm-{self.job}-train-{host}.err").read_text()

    def await_saved(self, step: int = 1) -> int:
        """Return when a checkpoint of at least that step is committed; the step."""
        self._await(lambda: self._newest() >= step or self.state in _ENDED, f"a checkpoint of step {step}")
        newest = self._newest()
        if newest < step:
            raise RuntimeError(f"job {self.job} ended before step {step}\n{self.output()}")
        return newest

    def await_end(self) -> str:
        """Return when the job has ended for good, the time after a requeue left out; its state."""
        last, since_s = "", 0.0

        def over() -> bool:
            nonlocal last, since_s
            state = self.state
            if state != last:
                last, since_s = state, time.monotonic()
            lasts = time.monotonic() - since_s > _REQUEUE_TAKES_S
            if state == "PENDING" and lasts:
                self.cluster.start_requeued(self.job)
            return state in _ENDED and (state == "COMPLETED" or lasts)

        self._await(over, "its end")
        return last

    def starts(self) -> int:
        """How often ranks that came so far as to have a run were started."""
        starts = self.run / "processes.jsonl"
        return sum('"launchers"' in line for line in starts.read_text().splitlines()) if starts.exists() else 0

    def status(self) -> dict[str, Any]:
        """What ``dlrm_main.py status`` says of its run, on the login host."""
        words = [sys.executable, str(ROOT / "dlrm_main.py"), "status", str(self.run), "--json"]
        told: dict[str, Any] = json.loads(self.cluster.run(*words))
        return told

    def requeues(self) -> int:
        """How often Slurm has queued it again."""
        shown = self.cluster.run("scontrol", "--oneliner", "show", "job", self.job)
        return max(int(count) for count in re.findall(r"\bRestarts=(\d+)", shown))

    @property
    def hosts(self) -> list[str]:
        """On which it runs or ran."""
        shown = self.cluster.run("scontrol", "--oneliner", "show", "job", self.job)
        return sorted(re.findall(r"\bNodeList=(\S+)", shown))

    def tensors(self) -> dict[str, torch.Tensor]:
        """The whole final state.

        Raises:
            RuntimeError: the job did not complete.
        """
        if (state := self.await_end()) != "COMPLETED":
            raise RuntimeError(f"job {self.job}: {state}\n{self.output()}")
        return saved_tensors(self.checkpoints / f"step_{committed_steps(self.checkpoints)[-1]:08d}")

    def launcher_on(self, host: str) -> int:
        """The process id of this job's launcher on a host."""
        return self._process_on(host, lambda words: "launch/elastic.py" in words and words[0] != "bash")

    def rank_on(self, host: str) -> int:
        """The process id of its rank there."""
        return self._process_on(host, lambda words: "dlrm_main.py" in words and "launch/elastic.py" not in words)

    def _process_on(self, host: str, matches: Callable[[Sequence[str]], bool]) -> int:
        for pid in self.cluster.pids(host):
            with suppress(psutil.Error):
                process = psutil.Process(pid)
                if matches(process.cmdline()) and process.environ().get("SLURM_JOB_ID") == self.job:
                    return pid
        raise RuntimeError(f"no such process of job {self.job} on {host}")

    def _newest(self) -> int:
        return max(committed_steps(self.checkpoints), default=0)

    def _await(self, condition: Callable[[], bool], what: str) -> None:
        deadline = time.monotonic() + _LONGEST_S
        while not condition():
            if time.monotonic() > deadline:
                raise TimeoutError(f"job {self.job}: waited {_LONGEST_S:g} s for {what}; {self.state}\n{self.output()}")
            time.sleep(_POLL_S)


class Submitter:
    """Submits jobs as a user on the login host does, in a folder that looks like a checkout.

    Args:
        cluster: to submit to.
        folder: for the checkout (links), the runs and what Slurm prints.
    """

    def __init__(self, cluster: SlurmCluster, folder: Path) -> None:
        self.cluster, self.runs, self._place = cluster, folder / "runs", folder / "checkout"
        self._place.mkdir(parents=True)
        for name in _PARTS:
            (self._place / name).symlink_to(ROOT / name)

    def submit(
        self,
        name: str,
        options: Sequence[str],
        *,
        hosts: str = "2",
        more: Sequence[str] = (),
        cfg: str = "",
        **env: str,
    ) -> Submitted:
        """Submit a training with one rank on each host and one core a rank.

        Args:
            name: of the run; options: of the trainer, the first of which are ``--config FILE``.
            hosts: how many; more: arguments of the component; cfg: of torchx's scheduler; env: of the submitter.
        """
        torchx = [str(Path(sys.executable).with_name("torchx")), "run", "-s", "slurm", *(["-cfg", cfg] if cfg else [])]
        component = ["components/dlrm.py:train", "-j", f"{hosts}x1", "--cpu", "1", "--memMB", "2500", "--gpu", "0"]
        place = ["--python", sys.executable, "--run_dir", str(self.runs), *options[:2], *more]
        words = [*torchx, *component, *place, "--", *options[2:], "--run.name", name]
        printed = self.cluster.run("bash", "-c", 'cd "$0" && exec "$@"', str(self._place), *words, more=env)
        job = re.search(r"^slurm://\S+/(\d+)$", printed, re.MULTILINE)
        assert job is not None, printed
        return Submitted(self.cluster, self._place, job[1], self.runs / name)


def assert_equal_to_the_bit(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> None:
    """Two final states are the same: weights, optimizers, averages."""
    assert one, "there is nothing to compare"
    assert not (names := differing_tensors(one, other)), f"differ: {', '.join(names)}"
