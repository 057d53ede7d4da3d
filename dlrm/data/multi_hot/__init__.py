"""Bags of ids made from one-hot ids, without files: by MLPerf's recipe or by a hash."""

from dlrm.data.multi_hot.dataset import multi_hot_dataset

__all__ = ["multi_hot_dataset"]
