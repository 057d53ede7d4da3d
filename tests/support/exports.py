"""Small trained runs and exports of them, for tests of inference."""

from __future__ import annotations

import os
from pathlib import Path

import torch
from safetensors.torch import load_file

from dlrm.checkpoint.fill import Progress, ignore
from dlrm.checkpoint.reader import Reader, open_reader
from dlrm.checkpoint.stored import open_checkpoint
from dlrm.config import Config, load_config
from dlrm.data.batch import make_batch
from dlrm.data.build import build_dataset
from dlrm.data.source import Dataset, Samples
from dlrm.inference.export.job import ExportJob
from dlrm.inference.export.update import Update
from dlrm.inference.export.write import MAX_FILE_BYTES, FolderWriter, new_export
from dlrm.inference.exported.manifest import Manifest
from dlrm.lookups.jagged import RowsLookedUp
from dlrm.models.build import build_model
from dlrm.models.tables import DIM_MULTIPLE
from dlrm.table_names import module_name, state_name
from dlrm.train.checkpointing.load import saved_config
from tests.support.command import run_command

TINY = [
    "--run.name=tiny",
    "--data.train_samples=4096",
    "--data.validation_samples=512",
    "--data.test_samples=2048",
    "--data.rows=40,7,300,20,3",
    "--data.num_dense=4",
    "--model.embedding_dim=8",
    "--model.bottom_mlp=16,8",
    "--model.top_mlp=16,1",
    "--train.global_batch_size=512",
    "--logging.progress=false",
    "--logging.tensorboard=false",
]
"""Options of a training of a second: planted clicks, 5 tables, 8 steps."""


def train(folder: Path, *options: str) -> Path:
    """Train with the options of :data:`TINY` and these; the folder of the run."""
    (outcome,) = run_command(["train", f"--run.dir={folder}", *TINY, *options])
    assert outcome.exit_code == 0, outcome.stderr
    (run,) = [path for path in folder.iterdir() if path.is_dir()]
    return run


def newest_checkpoint(run: Path) -> Path:
    """The checkpoint of the last step."""
    return max((run / "checkpoints").iterdir())


def write_export(
    reader: Reader,
    writer: FolderWriter,
    *,
    average: bool = True,
    max_file_bytes: int = MAX_FILE_BYTES,
    update: Update | None = None,
    progress: Progress = ignore,
) -> Manifest:
    """Write all files of an export of a checkpoint, and say nothing."""
    job = ExportJob(
        reader,
        writer,
        saved_config(reader.checkpoint),
        average=average,
        max_file_bytes=max_file_bytes,
        update=update,
        say=lambda line: None,
    )
    return job.run(progress)


def export(run: Path, output: Path, *, average: bool = True, max_file_bytes: int = MAX_FILE_BYTES) -> Manifest:
    """Export the newest checkpoint of a run in this process."""
    reader = open_reader(open_checkpoint(os.fspath(newest_checkpoint(run))))
    with new_export(os.fspath(output), overwrite=False) as writer:
        return write_export(reader, writer, average=average, max_file_bytes=max_file_bytes)


def saved_configuration(run: Path) -> Config:
    """The configuration that a run was started with."""
    return load_config(run / "config.yaml")


def dataset_of(run: Path) -> Dataset:
    """The data that a run was trained on."""
    return build_dataset(saved_configuration(run).data)


class TrainersModel:
    """The trainer's model in eval mode, with the weights of a file of ``checkpoint export``.

    Args:
        run: the folder of the run.
        prefix: of the weights' names: ``average.`` for the averages.
    """

    def __init__(self, run: Path, prefix: str = "") -> None:
        config, self.schema = saved_configuration(run), dataset_of(run).schema
        self.model = build_model(config.model, self.schema, seed=1, tables_device="cpu").eval()
        file = run.parent / "weights.safetensors"
        (outcome,) = run_command(["checkpoint", "export", str(run), str(file), "--optimizer", "--overwrite"])
        assert outcome.exit_code == 0, outcome.stderr
        weights = load_file(file)
        tables = {
            f"tables.embedding_bags.{module_name(table.name)}.weight": f"tables.{state_name(table.name)}.weight"
            for table in self.model.lookups.tables
        }
        state = {name: weights[prefix + tables.get(name, name)] for name in self.model.state_dict()}
        for name in tables:
            padding = -state[name].shape[1] % DIM_MULTIPLE
            state[name] = torch.nn.functional.pad(state[name], (0, padding))
        self.model.load_state_dict(state)

    @torch.no_grad()
    def logits(self, samples: Samples) -> torch.Tensor:
        """float32 (B, T)."""
        size = len(samples)
        batch = make_batch(samples, self.schema, size=size, global_samples=size, world_size=1)
        logits_BT: torch.Tensor = self.model(batch.dense, RowsLookedUp(self.model.lookups)(batch.sparse))
        return logits_BT
