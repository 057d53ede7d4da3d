"""What a step costs and why: the benchmark, the ceilings of a machine and the floors that follow from them."""
