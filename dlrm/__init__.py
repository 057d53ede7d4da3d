"""A distributed trainer for deep learning recommendation models (DLRM, arXiv:1906.00091) on torchrec."""

__version__ = "0.1.0"
