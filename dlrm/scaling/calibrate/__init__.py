"""The machine, measured for the cost model."""
