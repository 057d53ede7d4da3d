"""What ends a model, a kind a file: from what its interaction gives to the logit of each task.

Shape suffixes besides those of :mod:`dlrm.models`: T tasks, E experts, G inputs that experts share, M experts of a task.
"""

from dlrm.layers.heads.build import build_heads

__all__ = ["build_heads"]
