"""Optimizers of MLPs and tables, the learning-rate schedule and clipping."""
