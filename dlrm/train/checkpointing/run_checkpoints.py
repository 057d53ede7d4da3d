"""The checkpoints of a run put together: where it starts, the hook that saves, and what is done when it fails."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from dlrm.checkpoint.claim import WATCH_S, Claim
from dlrm.checkpoint.delta.watch import DeltaWatch
from dlrm.checkpoint.patience import Patience, patient
from dlrm.checkpoint.remote import located
from dlrm.checkpoint.retention import RetentionPolicy
from dlrm.checkpoint.saver import AsyncSaver, SaveReport
from dlrm.checkpoint.soundness import fault_in_snapshot
from dlrm.config import Config
from dlrm.distributed.collectives import from_rank_0
from dlrm.distributed.world import World
from dlrm.errors import DlrmError
from dlrm.run.console import Display
from dlrm.run.environment import package_versions
from dlrm.run.folder import RunFolder
from dlrm.signals import SignalWatch
from dlrm.train.checkpointing.delta_state import DeltaState
from dlrm.train.checkpointing.hook import CheckpointHook
from dlrm.train.checkpointing.metadata import MetadataOfRun
from dlrm.train.checkpointing.provider import FullState, StateProvider
from dlrm.train.checkpointing.resume import Start, checkpoint_folder, start_here
from dlrm.train.checkpointing.train_state import TrainingData
from dlrm.train.engine import Engine
from dlrm.train.hooks import Hook
from dlrm.train.schedule import Schedule
from dlrm.train.standard_hooks import Measured

_FAILING_PATIENCE_S = 30.0


class Checkpointing:
    """The checkpoints of a run, seen from one rank.

    Args:
        data: what is trained on; schedule: how much of it.
        run: the run's folder.
        patience: with storage that is away for a moment, at the start and where another job may have come.
    """

    def __init__(
        self,
        config: Config,
        engine: Engine,
        data: TrainingData,
        schedule: Schedule,
        run: RunFolder,
        world: World,
        display: Display,
        patience: Patience,
    ) -> None:
        self._config, self._engine, self._data, self._schedule, self._run = config, engine, data, schedule, run
        self._world, self._display = world, display
        self._storage, self._folder = located(checkpoint_folder(config, run))
        self._patient_storage = patient(self._storage, patience)
        self._signals = SignalWatch(announce=world.is_leader)
        self._watch = DeltaWatch(self._storage, deltas=config.checkpoint.full_every - 1)
        self._retention = RetentionPolicy(
            self._folder, self._storage, config.checkpoint.keep, damaged=self._watch.damaged
        )
        self._claim = Claim(self._patient_storage, self._folder, run.launchers, display.say)
        self._saver = AsyncSaver(
            self._folder,
            world.collectives,
            storage=self._storage,
            time_limit_s=config.checkpoint.time_limit_s,
            before_save=self._claim.check,
            judge=fault_in_snapshot,
            on_committed=self._committed,
        )
        self._start = Start()

    def _committed(self, report: SaveReport) -> None:
        """Look after what deltas will depend on, then remove what is too old; on rank 0, in the thread that saves."""
        if self._config.checkpoint.full_every > 1:
            self._watch.note(report.path)
        self._retention(report)

    def find_start(self, *, otherwise: Callable[[], Start]) -> Start:
        """Load what the run has come to, if it goes on; collective. If not, training begins at ``otherwise()``.

        Raises:
            ConfigError: another job writes the run's checkpoints.
            CheckpointError: see :func:`~dlrm.train.checkpointing.resume.start_here`.
        """
        if self._config.checkpoint.enabled:
            watch_s = min(WATCH_S, self._config.distributed.timeout_s / 2)  # while the other ranks wait
            from_rank_0(self._world.collectives, lambda: self._claim.take(watch_s))
        with self._released_on_error():
            self._start = start_here(
                self._config,
                self._engine,
                self._data,
                self._run,
                self._patient_storage,
                self._world,
                otherwise=otherwise,
            )
        return self._start

    def saving(self, measured: Measured) -> Hook:
        """The hook that saves, with the figures of the run so far in ``measured``."""
        if self._start.saved is not None:
            self._start.saved.restore(measured, leader=self._world.is_leader)
        if not self._config.checkpoint.enabled:
            return Hook()
        provider = self._provider()
        provider.resumed(self._start.checkpoint)
        metadata = MetadataOfRun(
            self._config, self._data, self._world, self._engine.placements, measured, package_versions()
        )
        return CheckpointHook(
            self._config.checkpoint,
            self._world,
            saver=self._saver,
            retention=self._retention,
            provider=provider,
            metadata=metadata,
            measured=measured,
            best=self._start.best,
            saved_step=self._start.position.step if self._start.own else None,
            last_step=self._schedule.total_steps,
            signals=self._signals,
            display=self._display,
        )

    def _provider(self) -> StateProvider:
        if self._config.checkpoint.full_every == 1:
            return FullState(self._engine)
        return DeltaState(
            self._engine,
            self._world.collectives,
            full_every=self._config.checkpoint.full_every,
            bits=self._config.checkpoint.increment_bits,
            average_decay=self._config.train.average_decay,
            full_at_first=1 if self._start.own else 2,
            fault=self._watch.fault,
            say=self._display.say,
        )

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Training: signals are waited for, and a failure of this rank lets it finish what it is writing."""
        if not self._config.checkpoint.enabled:
            yield
            return
        with self._signals, self._released_on_error():
            try:
                yield
            except DlrmError:  # of all ranks alike; after anything else there is nobody to wait for
                self._saver.wait_here(_FAILING_PATIENCE_S)
                raise
        self._claim.release()

    @contextmanager
    def _released_on_error(self) -> Iterator[None]:
        """A claim that outlives this process makes others wait; after other errors there is no time to remove it."""
        try:
            yield
        except DlrmError:
            if not self._saver.busy:
                self._claim.release()
            raise
