"""Raw rows into features: the preprocessing that an export carries."""

from dlrm.inference.raw.columns import RawColumn
from dlrm.inference.raw.of_data import preprocessing_of
from dlrm.inference.raw.preprocessing import Preprocessing
from dlrm.inference.raw.record import PreprocessingRecord

__all__ = ["Preprocessing", "PreprocessingRecord", "RawColumn", "preprocessing_of"]
