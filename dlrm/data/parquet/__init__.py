"""Parquet files as a source of samples: one row a sample, in columns that the configuration maps.

``columns`` says which columns are wanted and which types will do, ``files`` opens files, ``decode`` turns a row group into
arrays, ``cache`` keeps those that fit, ``dataset`` makes sources of them.
"""

from dlrm.data.parquet.dataset import ParquetSource, parquet_dataset

__all__ = ["ParquetSource", "parquet_dataset"]
