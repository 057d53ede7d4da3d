"""Reads exports; knows neither torchrec nor training."""
