"""Experiments: a matrix of configurations, run point by point, as one table."""
