"""What the pretended device counts, by step, and where in the code the host waited for it or copied pageable memory."""

from __future__ import annotations

import ctypes
import sys
import threading
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

PACKAGE = str(Path(__file__).resolve().parent)
ROOT = str(Path(__file__).resolve().parents[2])
# What stands between two frames that say something.
_SILENT_FILES = (
    *("/torch/_ops.py", "/torch/_compile.py", "/torch/_jit_internal.py", "/torch/_dynamo/eval_frame.py"),
    *(
        "/torch/_library/autograd.py",
        "/torch/cuda/streams.py",
        "/torch/utils/_python_dispatch.py",
        "/torch/utils/_contextlib.py",
    ),
)
_SILENT_FUNCTIONS = ("_call_impl", "_wrapped_call_impl", "wrapper", "decorate_context")
_MOST_FRAMES = 12
_MIB = 1 << 20


@dataclass(frozen=True)
class Event:
    """Something that the host did and that costs it time.

    Attributes:
        counter: of the runtime, e.g. ``waits`` or ``h2d_pageable``.
        what: the call.
        stack: from the innermost frame outwards, ``file:line function``.
        thread: ``main``, ``autograd`` (threads without a name), or the thread's name.
    """

    counter: str
    what: str
    stack: tuple[str, ...]
    thread: str


@dataclass
class Step:
    """One trained step, from its first call to the end of its hooks.

    Attributes:
        number: counted from 1 over the run.
        quiet: nothing is recorded in it, and the pipeline is neither being filled nor emptied.
        counts: by counter, calls and bytes.
        events: how often each happened.
    """

    number: int
    quiet: bool = True
    counts: dict[str, tuple[int, int]] = field(default_factory=dict)
    events: Counter[Event] = field(default_factory=Counter)


class Runtime:
    """The counters of librehearsal.so in this process."""

    def __init__(self) -> None:
        self._library = ctypes.CDLL(None)
        name_of = self._library.rehearsal_counter_name
        name_of.restype = ctypes.c_char_p
        self.names: list[str] = []
        while name := name_of(len(self.names)):
            self.names.append(name.decode())
        self._kind = ctypes.CFUNCTYPE(None, ctypes.c_char_p, ctypes.c_char_p, ctypes.c_size_t)
        self._kept: Any = None

    def listen(self, heard: Any) -> None:
        """Call ``heard(counter, what, bytes)`` for what has a stack worth looking at, in the thread that does it."""
        self._kept = self._kind(heard)
        self._library.rehearsal_listen(self._kept)

    def read(self) -> dict[str, tuple[int, int]]:
        """Calls and bytes by counter, since the process began."""
        calls, totals = ((ctypes.c_uint64 * len(self.names))() for _ in range(2))
        self._library.rehearsal_read(calls, totals)
        return {name: (calls[i], totals[i]) for i, name in enumerate(self.names)}

    def memory_mib(self) -> dict[str, dict[str, float]]:
        """Device (of the calling thread), pinned and managed memory: now, and the peak."""
        used, peak = ((ctypes.c_uint64 * 3)() for _ in range(2))
        self._library.rehearsal_memory(used, peak)
        kinds = enumerate(("device", "pinned", "managed"))
        return {kind: {"now": used[i] / _MIB, "peak": peak[i] / _MIB} for i, kind in kinds}


class StepCounter:
    """Cuts what the runtime counts into steps.

    Attributes:
        steps: those that have ended.
    """

    def __init__(self, runtime: Runtime, *, edge_steps: int) -> None:
        """``edge_steps``: as many at both ends of an uninterrupted stretch fill and empty the pipeline."""
        self.steps: list[Step] = []
        self._runtime, self._edge_steps = runtime, edge_steps
        self._step: Step | None = None
        self._before: dict[str, tuple[int, int]] = {}
        self._stretch = 0
        self._main = threading.get_ident()
        runtime.listen(self._heard)

    def begin(self, number: int, *, after_pause: bool = False) -> None:
        """A step begins."""
        if after_pause:
            self._stretch = 0
        self._stretch += 1
        self._step = Step(number, quiet=self._stretch > self._edge_steps)
        self._before = self._runtime.read()

    def record(self) -> None:
        """Something is recorded in this step."""
        if self._step is not None:
            self._step.quiet = False

    def end(self) -> None:
        """It ends, its hooks included."""
        if self._step is None:
            return
        now = self._runtime.read()
        self._step.counts = {
            name: (calls - self._before[name][0], total - self._before[name][1]) for name, (calls, total) in now.items()
        }
        self.steps.append(self._step)
        self._step = None

    def pause(self) -> None:
        """The stretch is over: what began is no step, and the pipeline has been emptied in the last ones."""
        self._step = None
        for step in self.steps[len(self.steps) - min(self._edge_steps, self._stretch) :]:
            step.quiet = False

    def _heard(self, counter: bytes, what: bytes, size: int) -> None:
        step = self._step
        if step is not None:
            stack = stack_of(sys._getframe(1)) or _backward_node()
            step.events[Event(counter.decode(), what.decode(), stack, _thread_name(self._main))] += 1


def _backward_node() -> tuple[str, ...]:
    """In autograd's threads, where no Python runs: the node whose backward pass it is."""
    torch = sys.modules.get("torch")
    node = torch and torch._C._current_autograd_node()
    return (f"autograd:0 {node.name()}",) if node else ()


def _thread_name(main: int) -> str:
    ident = threading.get_ident()
    if ident == main:
        return "main"
    named = [thread for thread in threading.enumerate() if not isinstance(thread, threading._DummyThread)]
    return next((thread.name for thread in named if thread.ident == ident), "autograd")


def stack_of(frame: FrameType | None) -> tuple[str, ...]:
    """The frames that say something, innermost first; files of the project relative to it, others to site-packages."""
    found: list[str] = []
    while frame is not None and len(found) < _MOST_FRAMES:
        code = frame.f_code
        file = code.co_filename
        told = file.startswith(PACKAGE) or file.endswith(_SILENT_FILES) or code.co_name in _SILENT_FUNCTIONS
        if not told:
            found.append(f"{_short(file)}:{frame.f_lineno} {code.co_qualname}")
        frame = frame.f_back
    return tuple(found)


def _short(file: str) -> str:
    return file.split("site-packages/")[-1].removeprefix(f"{ROOT}/")
