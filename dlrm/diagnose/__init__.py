"""Why a model learns nothing, or too much: a look at samples before training, and at a run's figures after it."""
