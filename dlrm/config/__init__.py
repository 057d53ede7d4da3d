"""Frozen, typed configuration; free of torch."""

from dlrm.config.load import dump_config, load_config, load_options
from dlrm.config.root import Config

__all__ = ["Config", "dump_config", "load_config", "load_options"]
