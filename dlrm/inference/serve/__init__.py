"""Exports over HTTP: requests wait in queues, threads answer many at once, and exports are replaced while they serve.

What is loaded here starts without the trainer: nothing of this package needs torchrec.
"""
