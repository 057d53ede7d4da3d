"""The trainer's model, built from what an export's manifest says of it."""

from __future__ import annotations

import torch
from pydantic import TypeAdapter, ValidationError

from dlrm.config.model import ModelConfig
from dlrm.errors import ConfigError, ExportError
from dlrm.inference.export.dense_program import DensePart
from dlrm.inference.exported.folder import ExportFolder
from dlrm.inference.exported.manifest import PROGRAM_NAME
from dlrm.inference.exported.program import load_program
from dlrm.models.base import Model
from dlrm.models.build import build_model


def rebuilt_model(folder: ExportFolder, *, tables_device: str | torch.device = "meta", hint: str) -> Model:
    """The model that an export was made of, with the export's weights outside of its tables.

    Args:
        folder: of an export whose dense part is in float32.
        tables_device: of :func:`~dlrm.models.build.build_model`; the tables' rows are not the export's.
        hint: what to do where this cannot be done.

    Raises:
        ExportError: the export is damaged, or of a model that this version does not know.
    """
    path = folder.path / PROGRAM_NAME
    state = load_program(folder.read(PROGRAM_NAME), str(path)).state_dict
    try:
        config: ModelConfig = TypeAdapter(ModelConfig).validate_python(folder.manifest.source.model)
        model = build_model(config, folder.manifest.columns, seed=0, tables_device=tables_device)
        DensePart(model).load_state_dict(state)
    except (ValidationError, ConfigError, RuntimeError) as error:
        problem = f"its model cannot be built here ({str(error).splitlines()[0]})"
        raise ExportError(str(folder.path), problem, hint=hint) from error
    return model.eval()
