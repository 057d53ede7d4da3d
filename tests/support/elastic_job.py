"""Jobs under launch/elastic.py that are to be killed: their processes, and what lies in the folder of checkpoints.

What counts as committed is looked up here by the format's definition (a file COMMITTED), and final weights are put
together from the chunks, so that code which saves and resumes is not its own witness.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO

import psutil
import torch

from dlrm.checkpoint.load import load_tensors
from dlrm.checkpoint.manifest import DTYPES
from dlrm.checkpoint.reader import FullReader, open_reader
from dlrm.checkpoint.tensors import GlobalTensor
from tests.support.step_log import FOLDER_VARIABLE

ROOT = Path(__file__).resolve().parents[2]
PROGRAM = ROOT / "scripts" / "logged_training.py"
# What a launcher above this process may have set is not meant for the job.
NOT_PASSED = (
    "RANK",
    "WORLD_SIZE",
    "LOCAL_RANK",
    "LOCAL_WORLD_SIZE",
    "LOGLEVEL",
    "DLRM_LAUNCHER",
    "TORCHELASTIC_RUN_ID",
)
_POLL_S = 0.01


def small_training(data: Path, rows: tuple[int, ...]) -> list[str]:
    """Options for training on numbered data: tables sharded in three ways, dropout, averaged weights."""
    return [
        *("--data.kind", "packed", "--data.path", str(data), "--data.rows", ",".join(map(str, rows))),
        *("--model.embedding_dim", "16", "--model.bottom_mlp", "32,16", "--model.top_mlp", "32,1"),
        *("--model.dropout", "0.1", "--train.average_decay", "0.9", "--optim.dense.kind", "adam"),
        *("--optim.dense.lr", "0.001", "--optim.sparse.kind", "rowwise_adagrad", "--optim.sparse.lr", "0.05"),
        *("--sharding.types", "table_wise", "--sharding.tables.cat_0.types", "row_wise"),
        *("--sharding.tables.cat_3.types", "data_parallel"),
        *("--logging.progress", "false", "--logging.tensorboard", "false", "--distributed.threads_per_rank", "1"),
    ]


class ElasticJob:
    """A launcher and its ranks, which train with :mod:`tests.support.step_log`.

    Args:
        options: of ``dlrm_main.py train``.
        ranks: to start.
        log: folder of the step log; output: file that gets what the job prints.
        max_restarts: how often the launcher may start the ranks again.
    """

    def __init__(self, options: Sequence[str], *, ranks: int, log: Path, output: Path, max_restarts: int = 0) -> None:
        log.mkdir(parents=True, exist_ok=True)
        launcher = ["--standalone", "--local-addr", "localhost", "--nproc-per-node", str(ranks)]
        restarts = ["--max-restarts", str(max_restarts)]
        environment = {name: value for name, value in os.environ.items() if name not in NOT_PASSED}
        self._output: IO[bytes] = output.open("ab")
        self.started_s = time.time()
        self.process = subprocess.Popen(
            [sys.executable, str(ROOT / "launch/elastic.py"), *launcher, *restarts, str(PROGRAM), "train", *options],
            cwd=ROOT,
            env={**environment, FOLDER_VARIABLE: str(log)},
            stdout=self._output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )

    def __enter__(self) -> ElasticJob:
        return self

    def __exit__(self, *_: object) -> None:
        """Nothing of the job is left."""
        workers = self.workers()
        self.process.kill()
        for pid in workers:
            kill(pid)
        self.process.wait()
        self._output.close()

    @property
    def ended(self) -> bool:
        """Whether the launcher is gone."""
        return self.process.poll() is not None

    def workers(self) -> list[int]:
        """The process ids of the ranks that are alive now; zombies are not."""
        found = []
        with suppress(psutil.Error):
            for child in psutil.Process(self.process.pid).children():
                with suppress(psutil.Error):
                    if child.status() != psutil.STATUS_ZOMBIE and str(PROGRAM) in child.cmdline():
                        found.append(child.pid)
        return sorted(found)

    def wait(self, timeout_s: float) -> int:
        """The launcher's exit code.

        Raises:
            subprocess.TimeoutExpired: it runs after ``timeout_s``.
        """
        return self.process.wait(timeout_s)


def train_uninterrupted(options: Sequence[str], *, ranks: int, work: Path, timeout_s: float) -> dict[str, torch.Tensor]:
    """The final state of a run that is saved at its end only; its files are in ``work/reference``.

    Raises:
        RuntimeError: it failed.
    """
    words = [*options, "--run.dir", str(work), "--run.name", "reference", "--checkpoint.every_minutes", "null"]
    output = work / "reference_output"
    with ElasticJob(words, ranks=ranks, log=work / "reference_log", output=output) as job:
        if job.wait(timeout_s):
            raise RuntimeError(output.read_text())
    checkpoints = work / "reference" / "checkpoints"
    return saved_tensors(checkpoints / f"step_{committed_steps(checkpoints)[-1]:08d}")


def kill(pid: int) -> None:
    """SIGKILL, if it is still there."""
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def await_all_gone(pids: Sequence[int], timeout_s: float) -> None:
    """Return when none of the processes runs.

    Raises:
        TimeoutError: one still does.
    """
    await_true(lambda: not any(map(_runs, pids)), timeout_s, f"processes {list(pids)} to be gone")


def await_true(condition: Callable[[], bool], timeout_s: float, what: str) -> None:
    """Return when the condition holds.

    Raises:
        TimeoutError: it does not.
    """
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"waited {timeout_s:g} s for {what}")
        time.sleep(_POLL_S)


def _runs(pid: int) -> bool:
    with suppress(psutil.Error):
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE  # nobody may be there to collect an orphan
    return False


def committed_steps(checkpoints: Path) -> list[int]:
    """The steps of all committed checkpoints, in order."""
    names = [path.parent.name for path in checkpoints.glob("step_*/COMMITTED")]
    return sorted(int(name.removeprefix("step_")) for name in names if re.fullmatch("step_[0-9]+", name))


def unfinished_saves(checkpoints: Path) -> set[str]:
    """The folders of saves that are not committed: working folders, and final ones without COMMITTED."""
    found = set()
    with suppress(FileNotFoundError), os.scandir(checkpoints) as entries:
        for entry in entries:
            working = ".tmp-" in entry.name
            if working or (re.fullmatch("step_[0-9]+", entry.name) and not Path(entry.path, "COMMITTED").exists()):
                found.add(entry.name)
    return found


def saved_tensors(path: Path) -> dict[str, torch.Tensor]:
    """The whole tensors of a checkpoint; of a delta, as loading puts them together."""
    reader = open_reader(path)
    checkpoint = reader.checkpoint
    whole = {name: torch.empty(tensor.shape, dtype=DTYPES[tensor.dtype]) for name, tensor in reader.tensors.items()}
    if not isinstance(reader, FullReader):
        load_tensors(checkpoint, [GlobalTensor.of(name, values) for name, values in whole.items()])
        return whole
    for name, values in whole.items():
        for stored in checkpoint.chunks[name]:
            offsets, shape = stored.chunk.offsets, stored.chunk.shape
            place = tuple(slice(offset, offset + size) for offset, size in zip(offsets, shape, strict=True))
            values[place] = checkpoint.values(stored)
    return whole


def differing_tensors(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> list[str]:
    """The names of tensors that are not equal to the bit, or not in both."""
    return [
        name
        for name in sorted(one.keys() | other.keys())
        if name not in one or name not in other or not _same_bits(one[name], other[name])
    ]


def _same_bits(one: torch.Tensor, other: torch.Tensor) -> bool:
    if (one.shape, one.dtype) != (other.shape, other.dtype):
        return False
    return bool(torch.equal(one.contiguous().view(-1).view(torch.uint8), other.contiguous().view(-1).view(torch.uint8)))
