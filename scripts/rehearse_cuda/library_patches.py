"""What has to be changed in the libraries, and in what the rehearsal need not do, each with its reason."""

from __future__ import annotations


def apply(*, initial_weights: bool) -> None:
    """``initial_weights``: whether tables get theirs."""
    if not initial_weights:
        _leave_tables_unwritten()


def _leave_tables_unwritten() -> None:
    """Without arithmetic no weight matters, and pages that nobody writes to take no memory: a full-size model fits."""
    from dlrm.train import engine

    engine.fill_table_block = lambda *args, **kwargs: None
