"""The pretended CUDA in C, as far as it can be built here: NCCL needs a compiler, the rest CUDA's headers, too."""

import ctypes
import multiprocessing
import os
import re
import shutil
import subprocess
import sys

import numpy as np
import pytest

from scripts.rehearse_cuda import build

NCCL = ("counters.c", "nccl.c", "nccl_sums.c", "nccl_world.c")
FLOAT32, INT64, BFLOAT16 = 7, 4, 9
SUM, MAX, AVERAGE = 0, 2, 4
needs_compiler = pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler (cc)")


@pytest.fixture(scope="module")
def nccl(tmp_path_factory):
    library = tmp_path_factory.mktemp("built") / "libnccl.so"
    build.compile_library(library, NCCL, build.do_nothing({"nccl"}), [])
    return str(library)


class Id(ctypes.Structure):
    _fields_ = (("text", ctypes.c_char * 128),)


def pointer(array):
    return ctypes.c_void_p(array.ctypes.data)


def joined(path, name, rank, size):
    library = ctypes.CDLL(path)
    comm = ctypes.c_void_p()
    assert library.ncclCommInitRank(ctypes.byref(comm), size, Id(name.encode()), rank) == 0
    return library, comm


def all_reduce(library, comm, values, op, kind=FLOAT32):
    out = values.copy()
    assert library.ncclAllReduce(pointer(values), pointer(out), ctypes.c_size_t(len(values)), kind, op, comm, None) == 0
    return out


def work(path, name, rank, size, answers):
    library, comm = joined(path, name, rank, size)
    mine = np.array([rank + 1.0, 10.0 * rank], dtype=np.float32)
    found = {
        "sum": all_reduce(library, comm, mine, SUM).tolist(),
        "max": all_reduce(library, comm, mine, MAX).tolist(),
        "mean": all_reduce(library, comm, mine, AVERAGE).tolist(),
        "int64": all_reduce(library, comm, np.array([2**40 + rank]), SUM, INT64).tolist(),
        # bfloat16 is the upper half of a float32
        "bfloat16": all_reduce(library, comm, (mine.view(np.uint32) >> 16).astype(np.uint16), SUM, BFLOAT16).tolist(),
    }
    # in place, larger than what is read at a time
    large = np.full(600_000, rank + 1, dtype=np.float32)
    library.ncclAllReduce(pointer(large), pointer(large), ctypes.c_size_t(len(large)), FLOAT32, SUM, comm, None)
    found["large"] = sorted(set(large.tolist()))
    gathered = np.zeros(2 * size, dtype=np.float32)
    library.ncclAllGather(pointer(mine), pointer(gathered), ctypes.c_size_t(2), FLOAT32, comm, None)
    found["gathered"] = gathered.tolist()
    scattered = np.zeros(2, dtype=np.float32)
    library.ncclReduceScatter(pointer(gathered), pointer(scattered), ctypes.c_size_t(2), FLOAT32, SUM, comm, None)
    found["scattered"] = scattered.tolist()
    sent = np.zeros(2, dtype=np.float32)
    library.ncclBroadcast(pointer(mine), pointer(sent), ctypes.c_size_t(2), FLOAT32, 1, comm, None)
    found["broadcast"] = sent.tolist()
    # rank r sends r + 1 numbers to each, twice; nothing goes from 0 to the last one
    out = [np.full(rank + 1, 100 * rank + to, dtype=np.float32) for to in range(size)]
    into = [np.zeros(2 * (of + 1), dtype=np.float32) for of in range(size)]
    library.ncclGroupStart()
    for turn in range(2):
        for peer in range(size):
            if (rank, peer) != (0, size - 1):
                library.ncclSend(pointer(out[peer]), ctypes.c_size_t(rank + 1), FLOAT32, peer, comm, None)
            if (peer, rank) != (0, size - 1):
                half = into[peer][turn * (peer + 1) :]
                library.ncclRecv(pointer(half), ctypes.c_size_t(peer + 1), FLOAT32, peer, comm, None)
    assert library.ncclGroupEnd() == 0
    found["exchanged"] = [part.tolist() for part in into]
    half = ctypes.c_void_p()
    assert library.ncclCommSplit(comm, rank % 2, size - rank, ctypes.byref(half), None) == 0
    place = ctypes.c_int()
    library.ncclCommUserRank(half, ctypes.byref(place))
    found["split"] = (place.value, all_reduce(library, half, mine, SUM).tolist())
    answers.put((rank, found))


@needs_compiler
def test_ranks_reach_each_other(nccl):
    size, name = 3, f"/dlrm-test-{os.getpid()}"
    context = multiprocessing.get_context("spawn")
    answers = context.Queue()
    ranks = [context.Process(target=work, args=(nccl, name, rank, size, answers)) for rank in range(size)]
    for process in ranks:
        process.start()
    found = dict(answers.get(timeout=60) for _ in ranks)
    for process in ranks:
        process.join()
    for rank in range(size):
        mine = found[rank]
        assert mine["sum"] == [6.0, 30.0]
        assert mine["max"] == [3.0, 20.0]
        assert mine["mean"] == [2.0, 10.0]
        assert mine["int64"] == [3 * 2**40 + 3]
        assert mine["bfloat16"] == [np.float32(total).view(np.uint32) >> 16 for total in (6.0, 30.0)]
        assert mine["large"] == [6.0]
        assert mine["gathered"] == [1.0, 0.0, 2.0, 10.0, 3.0, 20.0]
        assert mine["scattered"] == [3 * value for value in mine["gathered"][2 * rank : 2 * rank + 2]]
        assert mine["broadcast"] == [2.0, 10.0]
        silent = {(0, size - 1)}
        expected = [[0.0 if (of, rank) in silent else 100.0 * of + rank] * (2 * (of + 1)) for of in range(size)]
        assert mine["exchanged"] == expected
    assert found[0]["split"] == (1, [4.0, 20.0])  # keys descend, so rank 2 comes first
    assert found[2]["split"] == (0, [4.0, 20.0])
    assert found[1]["split"] == (0, [2.0, 10.0])


ALONE = """
import ctypes, sys
import numpy as np
sys.path.insert(0, {root!r})
from tests.unit.rehearsal.test_runtime import *
library, comm = joined({path!r}, "/unused", 3, 8)
mine = np.arange(16, dtype=np.float32)
out = np.zeros(16, dtype=np.float32)
library.ncclAlltoAll(pointer(mine), pointer(out), ctypes.c_size_t(2), FLOAT32, comm, None)
print(out.tolist() == [6.0, 7.0] * 8, all_reduce(library, comm, mine, SUM).tolist() == mine.tolist())
"""


@needs_compiler
def test_ranks_that_do_not_exist_are_taken_to_be_like_this_one(nccl):
    script = ALONE.format(root=str(build.RUNTIME.parents[2]), path=nccl)
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, env={**os.environ, "REHEARSAL_SOLO": "1"}, capture_output=True, text=True)
    assert done.stdout.split() == ["True", "True"], done.stderr


def test_a_function_does_nothing_only_where_none_is_written():
    written = set()
    for source in build.RUNTIME.glob("*.c"):
        written |= set(re.findall(r"^API [^=;]*?(\w+)\(", source.read_text(), flags=re.MULTILINE))
    sections = {"cuda", "blas computes", "blas", "nccl", "driver"}
    lines = list(build.do_nothing(sections))
    names = [re.search(r"API int (\w+)\(", line)[1] for line in lines[1:]]
    assert "cudaMalloc" in written
    assert len(names) == len(set(names)) > 200
    assert not written & set(names)
    text = (build.RUNTIME / "do_nothing.txt").read_text()
    assert set(re.findall(r"^\[(.*)\]$", text, flags=re.MULTILINE)) == sections


MEMORY = """
import ctypes
library = ctypes.CDLL({path!r})
def allocate(function, size, *more):
    at = ctypes.c_void_p()
    return function(ctypes.byref(at), ctypes.c_size_t(size), *more), at
print(allocate(library.cudaMalloc, 2 << 30)[0])  # more than there is
_, device = allocate(library.cudaMalloc, 1000)
_, pinned = allocate(library.cudaHostAlloc, 1000, 0)
pageable = ctypes.create_string_buffer(1000)
heard = []
listener = ctypes.CFUNCTYPE(None, ctypes.c_char_p, ctypes.c_char_p, ctypes.c_size_t)(lambda *told: heard.append(told))
library.rehearsal_listen(listener)
for to, of in ((device, pinned), (device, pageable), (pinned, device), (pageable, device), (device, device)):
    library.cudaMemcpyAsync(to, of, ctypes.c_size_t(100), 4, None)
library.cudaStreamSynchronize(None)
library.rehearsal_counter_name.restype = ctypes.c_char_p
calls, sizes = (ctypes.c_uint64 * 64)(), (ctypes.c_uint64 * 64)()
library.rehearsal_read(calls, sizes)
names = [library.rehearsal_counter_name(i) for i in range(64)]
print([calls[names.index(n)] for n in (b"h2d_pinned", b"h2d_pageable", b"d2h_pinned", b"d2h_pageable", b"d2d", b"waits")])
print([told[0].decode() for told in heard])
used, peak = (ctypes.c_uint64 * 3)(), (ctypes.c_uint64 * 3)()
library.cudaFree(device)
library.rehearsal_memory(used, peak)
print(list(used), list(peak), library.cudaFree(pageable) != 0)
"""


@needs_compiler
def test_memory_and_copies_are_told_apart(tmp_path):
    try:
        built = build.build(tmp_path)
    except build.CannotBuildError as error:
        pytest.skip(f"only with CUDA's headers: {error}")
    environment = {**os.environ, "REHEARSAL_GIB": "1"}
    command = [sys.executable, "-c", MEMORY.format(path=str(built.preload))]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.stdout.splitlines() == [
        "2",  # cudaErrorMemoryAllocation
        "[1, 1, 1, 1, 1, 1]",
        "['h2d_pinned', 'h2d_pageable', 'd2h_pinned', 'd2h_pageable', 'waits']",
        "[0, 1024, 0] [1024, 1024, 0] True",  # in multiples of 512 bytes
    ], done.stderr
