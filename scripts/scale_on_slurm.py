"""An experiment of one and two hosts in a real Slurm, in which points fail and everything is killed once.

    sudo .venv/bin/python -m scripts.scale_on_slurm

What is done: a rank of a running point is killed; one point cannot work at all; `scale` itself is killed and started again
while its job goes on in Slurm; the point that could not work is mended; Ctrl-C. It needs root and Debian's packages of
Slurm (tests/support/slurm.py). tests/launch/test_scale_on_slurm.py does the first part of it.
"""

from __future__ import annotations

import csv
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from tests.support.elastic_job import ROOT
from tests.support.slurm import SlurmCluster, missing

FILE = """\
name: on_slurm
description: Weak scaling over two hosts of one rank
batch: weak
samples_per_rank: 64
hosts: [1, 2]
ranks_per_host: 1
repeats: {repeats}
timeout_s: 240
vary:
  data:
    - {{label: generated, options: {{}}}}
    - {{label: absent, options: {{data: {absent}}}}}
exclude:
  - {{data: absent, hosts: 1}}
options:
  data: {{kind: random, train_samples: 20000, rows: [100, 50, 20, 300]}}
  model: {{embedding_dim: 8, bottom_mlp: [16, 8], top_mlp: [16, 1]}}
  distributed: {{device: cpu, threads_per_rank: 1}}
  steps: {steps}
  warmup_steps: 1
  profiled_steps: 4
"""
NOT_THERE, MENDED = "{kind: packed, path: /nowhere, rows: [100, 50, 20, 300]}", "{seed: 1}"
_LONGEST_S = 600.0


@dataclass
class OnSlurm:
    """An experiment's file and output, and the command on the login host.

    Attributes:
        cluster: where; folder: for all files.
    """

    cluster: SlurmCluster
    folder: Path
    _started: list[subprocess.Popen[bytes]] = field(default_factory=list)

    @property
    def output(self) -> Path:
        """Of scale."""
        return self.folder / "out"

    @property
    def printed(self) -> str:
        """All that it has said so far."""
        path = self.folder / "printed"
        return path.read_text() if path.exists() else ""

    def write(self, *, absent: str = NOT_THERE, repeats: int = 1, steps: int = 200) -> None:
        """Write the experiment's file."""
        (self.folder / "experiment.yaml").write_text(FILE.format(absent=absent, repeats=repeats, steps=steps))

    def start(self) -> subprocess.Popen[bytes]:
        """Start scale on the login host, in the checkout."""
        place = f"--cpu 1 --gpu 0 --memMB 2500 --python {sys.executable}"
        words = [sys.executable, "dlrm_main.py", "scale", str(self.folder / "experiment.yaml")]
        words += ["--output", str(self.output), "--scheduler", "slurm", f"--component_args={place}"]
        in_checkout = ["bash", "-c", 'cd "$0" && exec "$@"', str(ROOT)]
        process = self.cluster.start(*in_checkout, *words, output=self.folder / "printed")
        self._started.append(process)
        return process

    def run(self) -> int:
        """Start it and wait for its end; the exit code."""
        return self.start().wait(_LONGEST_S)

    def rows(self) -> list[dict[str, str]]:
        """The table."""
        with (self.output / "results.csv").open(newline="") as file:
            return list(csv.DictReader(file))

    def outcomes(self) -> dict[tuple[str, str], tuple[str, str]]:
        """Status and reason of each repeat, by its point and number."""
        return {(row["point"], row["repeat"]): (row["status"], row["reason"]) for row in self.rows()}

    def await_rank(self, host: str, point: str) -> int:
        """Return when a rank of a point is up on a host; its process id."""
        found: list[int] = []

        def is_up() -> bool:
            found[:] = self._ranks(host, point)
            return bool(found)

        self.await_true(is_up, f"a rank of {point} on {host}")
        return found[0]

    def jobs(self) -> set[str]:
        """Those that Slurm has under way; a job of two hosts has a part for each."""
        return {job.partition("+")[0] for job in self.cluster.run("squeue", "--noheader", "--format=%i").split()}

    def await_true(self, condition: Callable[[], bool], what: str) -> None:
        """Return when the condition holds.

        Raises:
            TimeoutError: it does not.
        """
        deadline = time.monotonic() + _LONGEST_S
        while not condition():
            if time.monotonic() > deadline or self._started[-1].poll() is not None:
                raise TimeoutError(f"{what} did not come\n{self.printed}")
            time.sleep(0.2)

    def end(self) -> None:
        """Nothing of it is left."""
        for process in self._started:
            if process.poll() is None:
                process.kill()
                process.wait()

    def _ranks(self, host: str, point: str) -> Iterator[int]:
        for pid in self.cluster.pids(host):
            with suppress(psutil.Error):
                words = psutil.Process(pid).cmdline()
                is_rank = "dlrm_main.py" in words and "launch/elastic.py" not in words
                # Until it has the log of the benchmark open it has not joined the others.
                if is_rank and any(f"/{point}/" in word for word in words) and self._has_log(point):
                    yield pid

    def _has_log(self, point: str) -> bool:
        return any((self.output / "points" / point).glob("repeat_*/log/rank0.log"))


def a_rank_is_killed_and_one_point_cannot_work(case: OnSlurm) -> None:
    """The others go on, and both have a reason of one line."""
    case.write()
    scale = case.start()
    os.kill(case.await_rank("n2", "2x1.generated"), signal.SIGKILL)
    code = scale.wait(_LONGEST_S)
    found = case.outcomes()
    expect(code == 1, f"exit code {code}")
    expect(found["1x1.generated", "0"] == ("done", ""), str(found))
    status, reason = found["2x1.generated", "0"]
    expect(status == "failed" and "rank 1 was killed by SIGKILL" in reason, str(found))
    status, reason = found["2x1.absent", "0"]
    expect(status == "failed" and "/nowhere" in reason, str(found))


def scale_is_killed_and_finds_its_job_again(case: OnSlurm) -> None:
    """Nothing is submitted twice, and what was done before is not done again."""
    kept = case.output / "points/1x1.generated/repeat_0/benchmark.json"
    before = kept.stat().st_mtime_ns
    case.write(steps=200)
    scale = case.start()
    case.await_rank("n2", "2x1.generated")
    (under_way,) = case.jobs()
    psutil.Process(scale.pid).kill()
    scale.wait()
    expect(case.jobs() == {under_way}, "the job has ended with the client")
    code = case.run()
    found = case.outcomes()
    expect(code == 1, f"exit code {code}")
    expect("an earlier start has left it" in case.printed, case.printed)
    expect(found["2x1.generated", "0"] == ("done", ""), str(found))
    handle = (case.output / "points/2x1.generated/repeat_0/handle").read_text()
    expect(handle.strip().endswith(f"/{under_way}"), f"{handle} and not {under_way}")
    expect(kept.stat().st_mtime_ns == before, "a finished repeat was run again")


def the_point_is_mended(case: OnSlurm) -> None:
    """Only it is run, and all are done."""
    kept = case.output / "points/2x1.generated/repeat_0/benchmark.json"
    before = kept.stat().st_mtime_ns
    case.write(absent=MENDED)
    code = case.run()
    found = case.outcomes()
    expect(code == 0, f"exit code {code}: {case.printed}")
    expect({status for status, _ in found.values()} == {"done"}, str(found))
    expect(kept.stat().st_mtime_ns == before, "a finished repeat was run again")
    two_hosts = [row for row in case.rows() if row["point"] == "2x1.generated" and row["quantity"] == "bytes_sent"]
    expect(any(float(row["value"]) > 0 for row in two_hosts), "two hosts have sent each other nothing")


def ctrl_c_cancels(case: OnSlurm) -> None:
    """Slurm has no job left, and the table holds what there is."""
    case.write(absent=MENDED, repeats=2)
    scale = case.start()
    case.await_true(lambda: bool(case.jobs()), "a job")
    time.sleep(3)
    os.kill(scale.pid, signal.SIGINT)
    code = scale.wait(_LONGEST_S)
    expect(code == 130, f"exit code {code}: {case.printed}")
    expect(not case.jobs(), "a job is left")
    found = case.outcomes()
    expect(sorted(status for status, _ in found.values()) == ["done"] * 3 + ["missing"] * 3, str(found))
    left = list(ROOT.glob("slurm-*"))
    expect(not left, f"{left} were left")


CASES = (
    a_rank_is_killed_and_one_point_cannot_work,
    scale_is_killed_and_finds_its_job_again,
    the_point_is_mended,
    ctrl_c_cancels,
)


def expect(condition: bool, otherwise: str) -> None:
    """See that it holds.

    Raises:
        RuntimeError: it does not.
    """
    if not condition:
        raise RuntimeError(otherwise)


def main() -> int:
    """Do all of it, and say what became of each part."""
    if why := missing():
        print(why)
        return 2
    with (
        tempfile.TemporaryDirectory(prefix="scale_on_slurm_") as folder,
        SlurmCluster(Path(folder) / "slurm") as cluster,
    ):
        case = OnSlurm(cluster, Path(folder))
        try:
            for part in CASES:
                began_s = time.monotonic()
                part(case)
                print(f"{part.__name__}: as it should be; {time.monotonic() - began_s:.0f} s", flush=True)
        except (RuntimeError, TimeoutError) as error:
            print(f"{part.__name__}: {error}\n{case.printed}")
            return 1
        finally:
            case.end()
        print(case.printed)
    return 0


if __name__ == "__main__":
    sys.exit(main())
