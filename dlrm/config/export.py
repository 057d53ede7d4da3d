"""What ``export`` can be told."""

from __future__ import annotations

from dlrm.config.base import Section
from dlrm.config.data.paths import InputPath


class ExportModelConfig(Section):
    """A folder that answers without the trainer: the model of a checkpoint, its tables, and how raw rows are read."""

    checkpoint: InputPath
    """A checkpoint; or the folder of a run or of its checkpoints, for the newest good one."""
    output: InputPath
    """Folder to write."""
    average: bool = True
    """Export the averages of the weights, where the run has them (train.average_decay), as its evaluations use them."""
    compile: bool = False
    """Compile the dense part for this kind of machine too (AOTInductor; needs a C++ compiler). It is machine code: whoever
    runs it must trust the export."""
    onnx: bool = False
    """Write the dense part as ONNX, too (needs the packages onnx and onnxscript)."""
    overwrite: bool = False
    """Replace an export that is there."""
