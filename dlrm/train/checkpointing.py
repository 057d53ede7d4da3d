"""What checkpoints are to a run: where it starts, the hook that saves, and what is done when it fails."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from dlrm.checkpoint.saver import AsyncSaver
from dlrm.checkpoint.storage import LocalStorage
from dlrm.config import Config
from dlrm.distributed.world import World
from dlrm.errors import DlrmError
from dlrm.signals import SignalWatch
from dlrm.train.console import Display
from dlrm.train.engine import Engine
from dlrm.train.facts import FactsOfRun
from dlrm.train.hooks import Hook
from dlrm.train.resume import Start, checkpoint_folder, find_start
from dlrm.train.run_folder import RunFolder, package_versions
from dlrm.train.saving import Kept, Saving, WholeState
from dlrm.train.standard_hooks import Measured

_FAILING_PATIENCE_S = 30.0


class Checkpointing:
    """The checkpoints of a run, seen from one rank.

    Args:
        num_samples: of the training set.
        run: the run's folder.
    """

    def __init__(
        self, config: Config, engine: Engine, num_samples: int, run: RunFolder, world: World, display: Display
    ) -> None:
        self._config, self._engine, self._num_samples, self._run = config, engine, num_samples, run
        self._world, self._display = world, display
        self._folder = checkpoint_folder(config, run)
        self._storage = LocalStorage()
        self._signals = SignalWatch(announce=world.is_leader)
        self._kept = Kept(self._folder, self._storage, config.checkpoint.keep)
        self._saver = AsyncSaver(
            self._folder,
            world.collectives,
            storage=self._storage,
            time_limit_s=config.checkpoint.time_limit_s,
            on_committed=self._kept,
        )
        self._start = Start()

    def find_start(self) -> Start:
        """Load what training goes on from, if it goes on from anything; collective."""
        self._start = find_start(self._config, self._engine, self._num_samples, self._run, self._storage, self._world)
        return self._start

    def saving(self, measured: Measured) -> Hook:
        """The hook that saves, with the figures of the run so far in ``measured``."""
        if self._start.saved is not None:
            self._start.saved.restore(measured, leader=self._world.is_leader)
        if not self._config.checkpoint.enabled:
            return Hook()
        source = WholeState(self._engine)
        source.resumed(self._start.checkpoint)
        facts = FactsOfRun(
            self._config, self._num_samples, self._world, self._engine.placements, measured, package_versions()
        )
        return Saving(
            self._config.checkpoint,
            self._world,
            saver=self._saver,
            kept=self._kept,
            source=source,
            facts=facts,
            measured=measured,
            best=self._start.best,
            signals=self._signals,
            display=self._display,
        )

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Training: signals are waited for, and a failure of this rank lets it finish what it is writing."""
        if not self._config.checkpoint.enabled:
            yield
            return
        with self._signals:
            try:
                yield
            except DlrmError:  # of all ranks alike; after anything else there is nobody to wait for
                self._saver.wait_here(_FAILING_PATIENCE_S)
                raise
