"""The training run: stepper, loop, hooks, evaluation and what a run leaves behind."""
