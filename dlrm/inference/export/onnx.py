"""The dense part as ONNX, for programs that know nothing of torch."""

from __future__ import annotations

import contextlib
import io
import warnings

import torch

from dlrm.errors import ConfigError
from dlrm.inference.export.dense_program import quiet
from dlrm.inference.export.write import FolderWriter
from dlrm.inference.exported.manifest import ONNX_NAME

INPUTS = ("dense", "pooled")
OUTPUT = "logits"


def write_onnx(program: torch.export.ExportedProgram, writer: FolderWriter) -> None:
    """Write ``dense.onnx``: ``dense`` float32 (rows, N), ``pooled`` float32 (rows, X) -> ``logits`` float32 (rows, T).

    Raises:
        ConfigError: an operator of the model has no counterpart in ONNX.
    """
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()), quiet():
            warnings.simplefilter("ignore")
            found = torch.onnx.export(
                program,
                dynamo=True,
                input_names=list(INPUTS),
                output_names=[OUTPUT],
                external_data=False,
                verbose=False,
            )
    except torch.onnx.errors.OnnxExporterError as error:
        message = f"cannot write this model: {str(error).strip().splitlines()[0][:200]}"
        raise ConfigError.at("onnx", message) from error
    assert found is not None
    writer.add(ONNX_NAME, found.model_proto.SerializeToString(deterministic=True))
