"""The training run: engine, stepper, loop, hooks and evaluation."""
