"""One rank of a rehearsal: dlrm_main.py over the pretended CUDA, with everything counted. Started by __main__.py.

The environment says what is asked for: REHEARSAL_OUT is the folder for this rank's report, REHEARSAL_WARMUP the number of
steps that do not count, REHEARSAL_ARITHMETIC whether floating point is computed, REHEARSAL_SOLO whether other ranks exist.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from dlrm import signals, streams

if __name__ == "__main__":
    streams.open_closed()
    streams.see_who_watches()
    signals.take_early()

from dlrm.command import failure
from scripts.rehearse_cuda.counting import Runtime, StepCounter
from scripts.rehearse_cuda.report import rank_report

EDGE_STEPS = 3  # torchrec's pipelines hold at most three batches


def count_steps(counter: StepCounter) -> None:
    """Have the stepper and the hook that records say where steps begin and end."""
    from dlrm.train.standard_hooks import LossAndSpeed
    from dlrm.train.stepper import StepOutput, Stepper

    train, record = Stepper.train, LossAndSpeed._record

    def counted(self: Stepper, batches: Iterator[Any], first_step: int) -> Iterator[StepOutput]:
        counter.begin(first_step, after_pause=True)
        for step, output in enumerate(train(self, batches, first_step), first_step):
            yield output  # the hooks of the step run before the next one is asked for
            counter.end()
            counter.begin(step + 1)
        counter.pause()

    def recorded(self: LossAndSpeed) -> None:
        counter.record()
        record(self)

    Stepper.train, LossAndSpeed._record = counted, recorded  # type: ignore[method-assign]


def compute(floats: bool) -> Any:
    """Do the device's arithmetic during the run, and return what does."""
    from dlrm.train import job
    from scripts.rehearse_cuda.arithmetic import HostArithmetic

    arithmetic = HostArithmetic(floats=floats)
    run_training = job.run_training

    def computed(config: Any) -> Any:
        with arithmetic:
            return run_training(config)

    job.run_training = computed
    return arithmetic


def leave_tables_unwritten() -> None:
    """Without arithmetic no weight matters, and pages that nobody writes to take no memory: a full-size model fits."""
    from dlrm.train import engine

    engine.fill_table_block = lambda *args, **kwargs: None  # type: ignore[assignment]


def note_held(held: set[tuple[str, str]]) -> None:
    """Note the sharding type and the kernel of each piece of a table that this rank gets."""
    from dlrm.train import engine

    pieces_of = engine.pieces_of

    def noted(*args: Any, **kwargs: Any) -> Any:
        pieces = pieces_of(*args, **kwargs)
        held.update((piece.sharding, piece.kernel) for piece in pieces)
        return pieces

    engine.pieces_of = noted


def main(words: list[str]) -> int:
    import dlrm_main

    runtime = Runtime()
    counter = StepCounter(runtime, edge_steps=EDGE_STEPS)
    floats = os.environ.get("REHEARSAL_ARITHMETIC") == "1"
    count_steps(counter)
    held: set[tuple[str, str]] = set()
    note_held(held)
    if not floats:
        leave_tables_unwritten()
    if "REHEARSAL_SOLO" in os.environ:
        from scripts.rehearse_cuda import solo

        solo.stand_in_for_others()
    arithmetic = compute(floats)
    try:
        return dlrm_main.main(words)
    finally:
        report = rank_report(counter.steps, int(os.environ["REHEARSAL_WARMUP"]), runtime.memory_mib())
        report["held"] = sorted(held)
        report["not_computed"] = dict(arithmetic.not_computed)
        report["versions"] = {name: importlib.metadata.version(name) for name in ("torch", "fbgemm-gpu", "torchrec")}
        rank = int(os.environ.get("RANK", "0"))
        Path(os.environ["REHEARSAL_OUT"], f"rank{rank}.json").write_text(json.dumps({"rank": rank, **report}))


if __name__ == "__main__":
    failure.follow_launcher()
    try:
        code = main(sys.argv[1:])
    except BaseException as error:
        failure.leave(error)
    failure.leave(SystemExit(code))
