"""What the fork server of :mod:`tests.support.ranks` and :mod:`tests.support.command` has ready when a process begins.

Such a process lives for a second or two; importing all this and getting numba ready would take several times as long.
Importing this module starts no thread of Python's: a process that forks must have none.
"""

import io

import torch
import torch.utils.tensorboard

import dlrm.checkpoint.tools.commands
import dlrm.command.run
import dlrm.inference.predict.job
import dlrm.preprocess.job
import dlrm.train.job  # noqa: F401
from dlrm.data.permutation import permuted
from dlrm.hardware.catalogue import devices
from dlrm.run.curves import draw_curves

devices()
draw_curves([]).savefig(io.BytesIO())  # the first picture makes matplotlib look for fonts and import the most of itself
permuted(torch.arange(2), 2, 0)  # the first compiled loop makes numba import the half of scipy and numpy
