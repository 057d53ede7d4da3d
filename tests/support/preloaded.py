"""What the fork server of :mod:`tests.support.ranks` and :mod:`tests.support.command` has ready when a process begins.

Such a process lives for a second or two; importing all this and getting numba ready would take several times as long.
Importing this module starts no thread of Python's: a process that forks must have none.
"""

import gc
import io
import os

import torch
import torch.utils.tensorboard

import dlrm.checkpoint.tools.commands
import dlrm.command.run
import dlrm.inference.predict.job
import dlrm.preprocess.job
import dlrm.train.job  # noqa: F401
from dlrm.config import load_config
from dlrm.data.permutation import permuted
from dlrm.hardware.catalogue import devices
from dlrm.models.activations import activations
from dlrm.models.build import build_model
from dlrm.models.task import TrainTask
from dlrm.run.curves import draw_curves
from dlrm.schema import Schema

torch.set_num_threads(1)
devices()
draw_curves([]).savefig(io.BytesIO())  # the first picture makes matplotlib look for fonts and import the most of itself
permuted(torch.arange(2), 2, 0)  # the first compiled loop makes numba import the half of scipy and numpy
if (
    os.environ.get("CUDA_VISIBLE_DEVICES") == ""
):  # on a GPU it would start CUDA, which no process could use after the fork
    schema = Schema.numbered(2, (3, 4))
    task = TrainTask(build_model(load_config(None, []).model, schema, seed=0))
    # The first model that is followed through its operators makes torch look up what each of them does.
    assert not activations(task, schema, 4, torch.device("cpu")).unknown
gc.freeze()  # nor do the processes look for garbage in what they have from here
