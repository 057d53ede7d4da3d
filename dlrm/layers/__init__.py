"""Modules that models are made of: MLPs, interactions, pooling of the tables' output, dropout."""
