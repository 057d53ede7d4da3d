"""Searches and comparisons over configurations: validation samples choose, and test samples are scored once."""
