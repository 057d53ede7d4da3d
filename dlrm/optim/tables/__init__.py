"""Optimizers of the embedding tables, a file each: fbgemm's kernel, the state it keeps and its arithmetic outside of it."""
