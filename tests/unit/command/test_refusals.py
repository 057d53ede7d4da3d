import errno
import mmap
import os
import resource
import runpy
import tempfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
import torch.distributed as dist

import dlrm
from dlrm import memory
from dlrm.command.failure import judge
from dlrm.command.refusals import refusal
from dlrm.memory import Bytes, MemoryAccount

PIB = 2**50  # no machine has it


@pytest.fixture(autouse=True)
def nothing_expected(monkeypatch):
    """Whatever another test of this process has built."""
    monkeypatch.setattr(memory, "_expected", MemoryAccount())


def caught(action):
    try:
        action()
    except BaseException as error:
        return error
    raise AssertionError("nothing was raised")


# Memory


@pytest.mark.parametrize(
    ("take", "asked"),
    [
        (lambda: torch.empty(PIB, dtype=torch.uint8), "1024.0 TiB asked for"),
        (lambda: np.empty(PIB, dtype=np.uint8), "1.00 PiB asked for"),
        (lambda: pa.allocate_buffer(PIB), "1024.0 TiB asked for"),
        (lambda: bytearray(PIB), ""),
        (lambda: mmap.mmap(-1, PIB), ""),
    ],
)
def test_no_more_memory_of_the_host_is_one_line_whatever_asked_for_it(take, asked):
    verdict = judge(caught(take), rank=1, world_size=2)
    assert (verdict.kind, verdict.details, verdict.exit_code) == ("user", "", 2)
    assert verdict.line.startswith("rank 1: out of memory on the host")
    assert asked in verdict.line
    assert verdict.line.endswith("lower train.global_batch_size, raise train.accumulation_steps or use more ranks")


CUDA = (
    "CUDA out of memory. Tried to allocate 20.00 GiB. GPU 0 has a total capacity of 79.11 GiB of which 3.31 GiB is free. "
    "Process 1 has 75.79 GiB memory in use."
)


@pytest.mark.parametrize(
    ("error", "asked"),
    [
        (torch.OutOfMemoryError(CUDA), " (20.00 GiB asked for, 3.31 GiB free)"),
        (torch.AcceleratorError("CUDA error: out of memory\nCUDA kernel errors might be"), ""),  # fbgemm's UVM tables
        (dist.DistBackendError("NCCL error: unhandled cuda error\nCuda failure 2 'out of memory'"), ""),
    ],
)
def test_no_more_memory_of_the_gpu_is_a_cause_not_a_lost_rank(error, asked):
    verdict = judge(error, rank=3, world_size=8)
    assert verdict.kind == "user"
    assert verdict.line.startswith(f"rank 3: out of memory on the GPU{asked}; lower train.global_batch_size, raise")


def test_what_holds_the_memory_is_told_with_what_would_make_the_largest_part_smaller(monkeypatch):
    parts = {
        memory.PROCESS: Bytes(host=3 * 2**30),
        memory.TABLES: Bytes(device=41 * 2**30, host=2**30),
        memory.ACTIVATIONS: Bytes(device=30 * 2**30),
        memory.COPIES: Bytes(host=2**31),
        memory.BATCHES: Bytes(host=2**20, device=2**20),
    }
    monkeypatch.setattr(memory, "_expected", MemoryAccount(parts))
    on_gpu = judge(torch.OutOfMemoryError(CUDA), rank=3, world_size=8)
    assert (on_gpu.kind, on_gpu.exit_code) == ("user", 2)
    assert on_gpu.line == (
        "rank 3: out of memory on the GPU (20.00 GiB asked for, 3.31 GiB free); "
        "71.0 GiB expected (tables 41.0 GiB, activations 30.0 GiB, batches in flight 1.0 MiB); "
        "lower train.global_batch_size, raise train.accumulation_steps or use more ranks; "
        "for less of the tables: use smaller tables (fewer rows, model.embedding_dim) or more ranks"
    )
    on_host = judge(caught(lambda: torch.empty(PIB, dtype=torch.uint8)), rank=0, world_size=1)
    assert (on_host.kind, on_host.exit_code) == ("user", 2)
    assert on_host.line == (
        "out of memory on the host (1024.0 TiB asked for); "
        "6.0 GiB expected (process and libraries 3.0 GiB, copies for checkpoints 2.0 GiB, tables 1.0 GiB, "
        "batches in flight 1.0 MiB); lower train.global_batch_size, raise train.accumulation_steps or use more ranks; "
        "for less of the copies for checkpoints: use more ranks, or checkpoint.enabled: false"
    )


@pytest.mark.parametrize(
    ("module", "during", "change"),
    [
        ("train/engine.py", " while the model was built ", "use smaller tables (fewer rows, model.embedding_dim)"),
        ("train/stepper.py", " in a training step ", "lower train.global_batch_size"),
        ("train/evaluator.py", " while evaluating ", "lower evaluation.global_batch_size"),
        ("train/checkpointing/hook.py", " while saving a checkpoint ", "saving needs memory for a copy"),
        ("checkpoint/tools/exporting.py", " while checkpoints were read or written ", "on a host that has more"),
        ("dataset_tools/materialize.py", " while data were prepared ", "on a host that has more"),
        ("preprocess/job.py", " while preprocessing ", "--chunk_mib"),
        ("checkpoint/load.py", " while saving or loading a checkpoint ", "use more ranks or hosts"),
    ],
)
def test_the_phase_is_named_with_what_to_change_there(monkeypatch, tmp_path, module, during, change):
    assert (Path(dlrm.__file__).parent / module).exists()
    script = tmp_path / "dlrm" / module
    script.parent.mkdir(parents=True)
    script.write_text("import torch\ntorch.empty(2**50, dtype=torch.uint8)\n")
    (tmp_path / "dlrm" / "command").mkdir(exist_ok=True)
    monkeypatch.setattr("dlrm.command.refusals.__file__", str(tmp_path / "dlrm" / "command" / "refusals.py"))
    line = refusal(caught(lambda: runpy.run_path(str(script))))
    assert line.startswith(f"out of memory on the host{during}(1024.0 TiB asked for); ")
    assert change in line


# Files


@pytest.fixture
def few_files():
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (len(os.listdir("/proc/self/fd")) + 5, limits[1]))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, limits)


def test_too_many_open_files_are_one_line_with_the_limit(few_files):
    line = refusal(caught(lambda: [os.fdopen(os.dup(0)) for _ in range(10_000)]))
    assert line == "Too many open files; raise the limit of open files (ulimit -n)"


def test_a_folder_for_a_file_and_the_other_way_round_are_named(tmp_path):
    file = tmp_path / "file"
    file.touch()
    assert refusal(caught(tmp_path.read_bytes)) == f"{tmp_path}: Is a directory; a file is expected there: name one"
    below = file / "below"
    assert refusal(caught(below.mkdir)) == f"{below}: Not a directory; a part of the path is a file: name another place"
    wanted = f"{file}: a file is where a folder is to be; name another place"
    assert refusal(caught(lambda: file.mkdir(exist_ok=True))) == wanted
    assert refusal(caught(lambda: os.makedirs(file))) == wanted


@pytest.mark.parametrize("number", [errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT, errno.ESTALE])
def test_places_that_cannot_be_used_are_named_with_what_to_change(number):
    verdict = judge(OSError(number, os.strerror(number), "/data/x.npy"), rank=0, world_size=1)
    may_pass = number == errno.ESTALE  # so that a scheduler may start the job again
    assert (verdict.kind, verdict.exit_code) == ("user", 1 if may_pass else 2)
    assert verdict.line.startswith(f"/data/x.npy: {os.strerror(number)}; ")


def test_of_two_files_the_one_that_is_made_is_named():
    error = OSError(errno.EROFS, "Read-only file system", "/a.part", None, "/b")
    assert refusal(error).startswith("/b: Read-only file system; ")


def test_too_little_shared_memory_no_network_and_no_threads_are_one_line():
    nccl = (
        "NCCL error: unhandled system error\nError while creating shared memory segment /dev/shm/nccl-x (size 9637888)"
    )
    assert "docker run --shm-size=8g" in judge(dist.DistBackendError(nccl), rank=0, world_size=2).line
    gloo = (
        "[enforce fail at gloo/transport/tcp/device.cc:212] ifa != nullptr. Unable to find interface for: [127.0.0.1]"
    )
    assert "GLOO_SOCKET_IFNAME" in judge(RuntimeError(gloo), rank=0, world_size=2).line
    assert "ulimit -u" in refusal(RuntimeError("can't start new thread"))


def test_a_refusal_is_found_behind_the_error_that_it_caused():
    error = ValueError("while reading")
    error.__cause__ = PermissionError(errno.EACCES, "Permission denied", "/data/x.npy")
    assert refusal(error).startswith("/data/x.npy: Permission denied")


@pytest.mark.parametrize(
    "bug",
    [
        FileNotFoundError(errno.ENOENT, "No such file or directory", "/a/part"),
        FileExistsError(errno.EEXIST, "File exists", "/a/part"),
        PermissionError(errno.EPERM, "Operation not permitted"),  # of a signal, say: no file
        ConnectionResetError(errno.ECONNRESET, "Connection reset by peer"),
        RuntimeError("mat1 and mat2 shapes cannot be multiplied"),
        ValueError("Cannot allocate memory"),
        KeyError("x"),
        OSError("of nobody"),
    ],
)
def test_what_may_be_a_bug_keeps_its_traceback(bug):
    assert refusal(bug) == ""
    assert judge(bug, rank=0, world_size=1).kind == "bug"


def test_a_machine_without_a_folder_for_temporary_files_is_told_to_name_one(monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", None)
    monkeypatch.setattr(tempfile, "_candidate_tempdir_list", lambda: ["/nowhere"])
    with pytest.raises(FileNotFoundError) as caught:
        tempfile.gettempdir()
    assert refusal(caught.value) == (
        "No usable temporary directory found in ['/nowhere']; name one that can be written: TMPDIR=/dev/shm, say"
    )
