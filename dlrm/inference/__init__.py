"""From a trained model to answers: evaluate, export, quantise, predict, serve, and what answers cost.

An *export* is a folder from which raw rows become probabilities without the trainer: ``exported/`` reads it and knows
neither torchrec nor training, ``export/`` writes it from a checkpoint. ``raw/`` turns raw rows into *features*, which are
what a model takes.

Shape suffixes: B rows, N dense features, F sparse features (one table each), S ids a row, X columns of the pooled
embeddings of all tables side by side, T tasks.
"""
