"""The planner's inputs, the plan as a report, and the wrap into DistributedModelParallel."""
