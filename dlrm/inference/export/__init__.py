"""From a checkpoint to an export."""
