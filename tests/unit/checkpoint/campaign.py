"""Faults of storage, one at a time, and what has to hold after each."""

import contextlib
import os
import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from unittest import mock

from dlrm.checkpoint.folder import newest_good
from dlrm.checkpoint.patience import Patience, patient
from dlrm.checkpoint.resume import load_newest
from dlrm.checkpoint.retention import prune
from dlrm.checkpoint.storage import LocalStorage, UnreachableError
from dlrm.distributed.collectives import OneProcess
from dlrm.errors import CheckpointError, HalfLoadedError
from tests.support.storage_faults import FAULTS, Fault, Killed, faulty_storage
from tests.unit.checkpoint.states import State, blank, cut_up, gathered, random_state, save_ranks

SHAPES = {
    "table": ((40, 8), "float32"),
    "momentum": ((40,), "float32"),
    "mlp": ((9, 7), "bfloat16"),
    "step": ((), "int64"),
}
RANKS = 2


class Run:
    """A run's folder with a good checkpoint of step 1, and the states that the steps had."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.folder, self.seed = folder, seed
        self.states: dict[int, State] = {}
        shutil.rmtree(folder, ignore_errors=True)
        self.save(1)

    def save(self, step: int) -> None:
        self.states[step] = random_state(self.seed * 10 + step, SHAPES)
        save_ranks(self.folder, step, cut_up(self.states[step], self.seed + step, RANKS))

    def loaded_step(self) -> int:
        """Resume and return the step; it has to have the bits of that step's state."""
        ranks = cut_up(blank(self.states[1]), self.seed + 77, 1)
        found = load_newest(self.folder, ranks[0], OneProcess()).checkpoint
        assert found is not None, "no good checkpoint is left"
        assert gathered(ranks).same_bits_as(self.states[found.step]), "wrong bytes were loaded"
        return found.step


def fault_in_saving(run: Run, at: int, fault: Fault) -> str:
    """Save step 2 while the call number ``at`` fails; a line for the count."""
    failed = False
    with faulty_storage(at, fault) as system:
        try:
            run.save(2)
        except (CheckpointError, Killed):
            failed = True
    step = run.loaded_step()
    assert step == 2 or failed, "a save that failed has not said so"
    if step == 1:
        run.save(2)  # what the failed one has left is not in the way
        assert run.loaded_step() == 2
    run.save(3)
    prune(run.folder, keep=2)
    assert run.loaded_step() == 3
    names = sorted(path.name for path in run.folder.iterdir() if ".tmp-" not in path.name)
    assert names == ["step_00000002", "step_00000003"]
    if not system.hit:
        return "saving: not met"
    if not failed:
        return "saving: the fault did no harm"
    return f"saving: said to have failed, {'but it is whole' if step == 2 else 'the one before loaded'}"


def fault_in_pruning(run: Run, at: int, fault: Fault) -> str:
    """Prune while the call number ``at`` fails: two good ones have to remain, and all that remain have to be good."""
    run.save(2)
    run.save(3)
    with faulty_storage(at, fault) as system, contextlib.suppress(CheckpointError, Killed):
        prune(run.folder, keep=2)
    assert run.loaded_step() == 3
    assert newest_good(run.folder, before=3, verify=True)[0] is not None
    prune(run.folder, keep=2)
    assert sorted(path.name for path in run.folder.iterdir()) == ["step_00000002", "step_00000003"]
    return "pruning: survived" if system.hit else "pruning: not met"


def fault_in_loading(run: Run, at: int, fault: Fault) -> str:
    """Load while the call number ``at`` fails: the newest or an error, never an older one; with patience, the newest."""
    ranks = cut_up(blank(run.states[1]), run.seed, 1)
    with faulty_storage(at, fault) as system:
        try:
            found = load_newest(run.folder, ranks[0], OneProcess()).checkpoint
        except HalfLoadedError:
            outcome = "said that the state is half"
        except UnreachableError:
            outcome = "refused"
            assert gathered(ranks).same_bits_as(blank(run.states[1]))
        else:
            assert found is not None
            assert found.step == 2, "a fault of reading was taken for damage"
            outcome = "the fault did no harm"
    said: list[str] = []
    patience = Patience(60, said.append)
    with faulty_storage(at, fault) as again, mock.patch("dlrm.checkpoint.patience._FIRST_PAUSE_S", 0.0):
        resumed = load_newest(run.folder, ranks[0], OneProcess(), storage=patient(LocalStorage(), patience))
    assert resumed.checkpoint is not None
    assert (resumed.checkpoint.step, resumed.skipped) == (2, [])
    assert gathered(ranks).same_bits_as(run.states[2])
    assert len(said) in ((2,) if again.hit else (0,)), said
    assert run.loaded_step() == 2
    return f"loading: {outcome}, tried again it loads" if system.hit else "loading: not met"


def damages(rng: random.Random, run: Run) -> tuple[str, Callable[[], None]]:
    """A kind of damage to a file of step 2 that nobody reports."""
    path = rng.choice(sorted((run.folder / "step_00000002").iterdir()))
    older = run.folder / "step_00000001" / path.name
    data = path.read_bytes()
    at, length = rng.randrange(len(data)), rng.randrange(1, len(data) + 1)
    flipped = bytearray(data)
    flipped[at] ^= 1 << rng.randrange(8)
    kinds: dict[str, bytes | None] = {
        "truncated": data[:at],
        "byte flipped": bytes(flipped),
        "zeros instead of a range": data[:at] + bytes(len(data[at : at + length])) + data[at + length :],
        "lengthened": data + rng.randbytes(length),
        "range moved": data[at:] + data[:at],
        "missing": None,
        "that of an older checkpoint": older.read_bytes() if older.exists() else b"",
    }
    kind = rng.choice(sorted(kinds))
    content = kinds[kind]

    def act() -> None:
        if content is None:
            path.unlink()
        else:
            path.write_bytes(content)

    return kind, act


def silent_damage(run: Run, rng: random.Random) -> str:
    """Damage step 2 without a word: it loads only if its bytes are unchanged, and step 1 otherwise."""
    run.save(2)
    before = {path.name: path.read_bytes() for path in (run.folder / "step_00000002").iterdir()}
    kind, act = damages(rng, run)
    act()
    after = {path.name: path.read_bytes() for path in (run.folder / "step_00000002").iterdir()}
    assert run.loaded_step() == (2 if before == after else 1)
    found, _ = newest_good(run.folder, verify=True)
    assert found is not None
    assert found.step == (2 if before == after else 1)
    return f"damage: {kind}"


def calls_of(action: Callable[[], object]) -> int:
    """How many calls of storage an action makes."""
    with faulty_storage() as system:
        action()
    return system.calls


def every_call(folder: Path, *, stride: int = 1) -> Iterator[str]:
    """Each fault at each call (or every ``stride``-th) of saving, pruning and loading, each on a fresh run."""
    run = Run(folder, 0)
    saving = calls_of(lambda: run.save(2))
    loading = calls_of(run.loaded_step)
    run.save(3)
    pruning = calls_of(lambda: prune(folder, keep=2))
    for fault in FAULTS:
        for at in range(0, saving, stride):
            yield fault_in_saving(Run(folder, at), at, fault)
        for at in range(0, pruning, stride):
            yield fault_in_pruning(Run(folder, at), at, fault)
    for at in range(0, loading, stride):
        run = Run(folder, at)
        run.save(2)
        yield fault_in_loading(run, at, "EIO")


def random_damage(folder: Path, count: int, seed: int) -> Iterator[str]:
    """``count`` damages at random places."""
    rng = random.Random(seed)
    for number in range(count):
        yield silent_damage(Run(folder, number), rng)


def scratch() -> str:
    """Where faults are injected: memory where there is such a file system, since a sync of a disk takes long."""
    return "/dev/shm" if os.access("/dev/shm", os.W_OK) else os.environ.get("TMPDIR", "/tmp")
