"""Columns that hold a sample's history."""

from __future__ import annotations

from typing import Literal

from dlrm.config.base import Column, PositiveInt, Section


class SequenceColumn(Section):
    """A column of lists: what a sample's user has met before, as ids of another sparse column.

    Lists may have any length, and none. The newest ``max_length`` ids of each are kept.
    """

    item: Column
    """The sparse column whose ids these are: the candidate. Both have its rows."""
    max_length: PositiveInt = 50
    """Most ids of a sample; older ones are left out."""
    newest: Literal["last", "first"] = "last"
    """Which end of a list is the newest."""
